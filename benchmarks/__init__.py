"""monconn compared with similar programs: the cost of a byte, a message and a connection."""
