"""What the first bytes of connections say: pure parsers, which trust nothing that they read."""
