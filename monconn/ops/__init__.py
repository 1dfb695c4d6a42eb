"""All queries and actions, independent of any transport."""
