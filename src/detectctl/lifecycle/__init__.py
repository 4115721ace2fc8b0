"""What an operator does to a service, wherever it runs."""
