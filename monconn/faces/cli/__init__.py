"""The ``monconn`` command."""
