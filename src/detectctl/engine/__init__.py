"""Pixels to detections; knows no Ray and no HTTP."""
