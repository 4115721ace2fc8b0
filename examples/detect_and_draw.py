"""Fetch an image, ask the service what is in it, draw the boxes, save the picture: plain HTTP, nothing of detectctl.

Usage: python detect_and_draw.py IMAGE_URL [OUTPUT] [ENDPOINT]
"""

import json
import sys
import urllib.request
from io import BytesIO

from PIL import Image, ImageDraw, ImageOps

image_url = sys.argv[1]
output = sys.argv[2] if len(sys.argv) > 2 else "annotated.jpg"
endpoint = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:8000"

data = urllib.request.urlopen(image_url, timeout=30).read()
# `GET /detect?image_url=…` would do as well, but then the service might see another picture than is drawn on here.
request = urllib.request.Request(f"{endpoint}/detect", data, {"Content-Type": "application/octet-stream"})
answer = json.load(urllib.request.urlopen(request, timeout=30))

# Coordinates are pixels of the picture as a camera's owner sees it, so turn it the way its EXIF data says.
picture = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
canvas = ImageDraw.Draw(picture)
for found in answer["objects"]:
    x1, y1, x2, y2 = found["coordinates"]
    canvas.rectangle((x1, y1, x2, y2), outline="red", width=3)
    canvas.text((x1 + 5, y1 + 5), f"{found['class']} {found['confidence']:.2f}", "red", font_size=20)
picture.save(output)
print(f"{len(answer['objects'])} objects: {output}")
