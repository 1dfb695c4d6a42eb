"""What is allowed: rules, networks and timeouts. Pure functions over counts that others keep."""
