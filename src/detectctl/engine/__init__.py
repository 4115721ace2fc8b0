"""Pixels to detections; depends on neither Ray nor HTTP."""
