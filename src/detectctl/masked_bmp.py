"""BMP with a mask of bits for each colour: Pillow takes the usual masks only, and OpenCV mistakes others for them."""

from __future__ import annotations

import struct

from PIL import Image

_HEADER = struct.Struct("<2s8xI4xii2xHI20x3I")  # the masks follow a header of 40 bytes, or are in a longer one
_BITFIELDS = (3, 6)


def decoded(data: bytes) -> Image.Image | None:
    """The image, RGB; None if it is of another kind. It takes a few bytes for each of the file's: nothing is packed.

    Raises:
        ValueError: it is truncated or damaged.
    """
    if not data.startswith(b"BM") or len(data) < _HEADER.size:
        return None
    _, begin, width, height, bits, compression, *masks = _HEADER.unpack_from(data)
    if compression not in _BITFIELDS or bits not in {16, 32}:
        return None
    import numpy as np

    of_pixel, lines = bits // 8, abs(height)
    of_line = (width * of_pixel + 3) // 4 * 4
    if width < 1 or lines < 1 or len(data) - begin < lines * of_line:
        raise ValueError("it is truncated or damaged")
    stored = np.frombuffer(data, np.uint8, lines * of_line, begin).reshape(lines, of_line)[:, : width * of_pixel]
    pixels = np.ascontiguousarray(stored).view(f"<u{of_pixel}")
    image = np.zeros((lines, width, 3), np.uint8)
    for channel, mask in enumerate(masks):
        if lowest := mask & -mask:
            values = (pixels & mask) // lowest
            image[:, :, channel] = np.rint(values * np.float32(255 / (mask // lowest)))
    return Image.fromarray(image if height < 0 else image[::-1])
