"""Configuration files and command-line pairs, parsed into frozen classes."""
