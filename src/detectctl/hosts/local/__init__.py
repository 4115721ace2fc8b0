"""A Ray head of our own on this machine."""
