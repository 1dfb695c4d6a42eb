"""Everything that can be asked of monconn or done to it, without any transport."""
