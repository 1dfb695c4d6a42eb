"""Limits, blocked networks and timeouts. No I/O, and no counts of its own."""
