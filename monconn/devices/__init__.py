"""Devices: a client's identity, its usual intervals, and alarms when it departs from them."""
