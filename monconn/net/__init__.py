"""Sockets: listening, resolving names, and what the kernel knows of a socket."""
