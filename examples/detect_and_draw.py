"""Ask the service what is in an image, print it, and save the picture with it drawn.

Usage: python detect_and_draw.py IMAGE [OUTPUT] [ENDPOINT], where IMAGE is a file or a URL
"""

import sys
from pathlib import Path

from detectctl import Client

image = sys.argv[1]
output = Path(sys.argv[2] if len(sys.argv) > 2 else "annotated.jpg")
endpoint = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:8000"

# `fetch="client"`: this program downloads the image, so the service needs no permission to open its URL.
with Client(endpoint, fetch="client") as client:
    picture, result = client.annotate(image, "png" if output.suffix == ".png" else "jpeg")

output.write_bytes(picture)
for found in result.detections:
    print(f"{found.class_name} {found.confidence:.2f} at {[round(value) for value in found.xyxy]}")
print(f"{len(result.detections)} objects: {output}")
