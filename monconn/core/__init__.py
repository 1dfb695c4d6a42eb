"""Records of connections, and the monitors that keep them."""
