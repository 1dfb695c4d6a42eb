"""The live state of a service, and every operation on it."""
