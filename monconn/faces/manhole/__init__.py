"""The SSH manhole: a Python prompt and one-shot commands inside the running program."""
