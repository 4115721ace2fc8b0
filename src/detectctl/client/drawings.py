"""An image with its detections, to be drawn at any size; or the one drawing of it that the service sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

    from detectctl.wire import DetectionResult, DrawOptions


@dataclass(frozen=True, slots=True)
class DrawnHere:
    """Upright RGB pixels of the size that the result has."""

    image: Image
    result: DetectionResult

    def encoded(self, image_format: Literal["jpeg", "png", "webp"], options: DrawOptions) -> bytes:
        """A file's bytes, at the image's own size; UsageError if the format cannot hold it."""
        from detectctl.annotate import annotated

        return annotated(self.image, self.result, image_format, options)

    def fitted(self, size: tuple[int, int], options: DrawOptions) -> Image:
        """At the largest size within `size`."""
        from detectctl.annotate import fitted

        return fitted(self.image, self.result, size, options)


@dataclass(frozen=True, slots=True)
class DrawnThere:
    """What the service drew on an image that only it has: a file's bytes, in the format that it was asked for."""

    data: bytes
    result: None = None

    def encoded(self, _image_format: Literal["jpeg", "png", "webp"], _options: DrawOptions) -> bytes:
        """As it came."""
        return self.data

    def fitted(self, size: tuple[int, int], _options: DrawOptions) -> Image:
        """At the largest size within `size`: letters grow and shrink with the image."""
        from PIL import ImageOps

        from detectctl.upright import open_upright

        return ImageOps.contain(open_upright(self.data), size)
