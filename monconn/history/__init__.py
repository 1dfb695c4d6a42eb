"""What happened, kept in a file that outlives the program, and asked for afterwards."""
