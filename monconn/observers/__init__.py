"""Who is told what happens to connections."""
