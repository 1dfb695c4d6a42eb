"""Devices: who a client is, its usual rhythm, and alarms when it breaks it."""
