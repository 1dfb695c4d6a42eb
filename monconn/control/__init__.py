"""The control port: looked into from the command line, from programs, from other languages."""
