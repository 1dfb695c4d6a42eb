"""What is allowed: limits, blocked networks and timeouts. No I/O, and no counts of its own."""
