"""``monconn top``: a full-screen live view of a running monconn."""
