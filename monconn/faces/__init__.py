"""Admin interfaces: each translates the operations for one kind of client."""
