"""The service from the operator's side."""
