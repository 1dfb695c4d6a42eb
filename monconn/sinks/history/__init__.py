"""Closed connections and other events, stored in SQLite and queried later."""
