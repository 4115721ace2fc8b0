"""What a machine lacks for a service, and what is wrong with one that runs: each with its fix."""
