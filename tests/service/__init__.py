"""Tests that only ask one running instance something."""
