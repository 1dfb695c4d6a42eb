"""May this client enter?"""
