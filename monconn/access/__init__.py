"""Who may use the HTTP API: tokens, one-time codes and sessions, without any transport."""
