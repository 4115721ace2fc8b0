"""What lives in a replica."""
