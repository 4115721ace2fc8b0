"""What happens to a service, and what that costs."""
