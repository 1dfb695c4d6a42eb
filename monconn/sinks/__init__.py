"""Observers that write what happens: logs, history, metrics."""
