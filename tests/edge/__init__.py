"""Tests that attack one running instance."""
