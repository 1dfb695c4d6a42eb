"""monconn beside its peers: what a byte, a message and a connection cost."""
