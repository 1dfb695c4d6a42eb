"""The data path over Twisted's transports: TLS, and every other endpoint."""
