"""HTTP/1.1 for whatever serves some: metrics, and the API with its page."""
