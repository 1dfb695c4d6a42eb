"""The control port: AMP over a UNIX socket, for the command line and other programs."""
