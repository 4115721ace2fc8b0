"""Serve a trained YOLOv8 model with Ray Serve."""

__version__ = "0.1.0"
