"""Networks quantised to int8, and how far they are from what they were made of."""
