"""What is known of connections: records, totals, alarms and their vocabulary. No I/O."""
