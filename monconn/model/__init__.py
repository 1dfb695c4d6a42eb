"""The data model: records, totals, alarms and their vocabulary. No I/O."""
