"""Tests that deploy to one running cluster of three nodes."""
