"""The SSH manhole: an operator's prompt and one-shot commands inside the running program."""
