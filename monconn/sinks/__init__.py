"""Observers that write events out: logs, history, metrics."""
