"""What a picture may cost, checked before it is decoded."""

from __future__ import annotations

from pydantic import PositiveInt

from .errors import PictureTooLargeError
from .validation import validated

__all__ = ["PictureLimits"]


@validated(frozen=True)
class PictureLimits:
    """What a picture may cost. Pillow's own limit on pixels does not apply beside it.

    Except in WebP and TIFF files, whose readers insist on it: 178,956,970 pixels.

    Attributes:
        max_pixels: most pixels (width · height) that are decoded.
        max_bytes: most bytes of an encoded picture that are read.
    """

    max_pixels: PositiveInt = 64_000_000
    max_bytes: PositiveInt = 512 * 1024 * 1024

    def check_pixels(self, width: int, height: int, name: str) -> None:
        """Raise `PictureTooLargeError` if a picture of this size is not to be decoded."""
        if width * height > self.max_pixels:
            raise PictureTooLargeError(
                f"{name} has {width}x{height} = {width * height} pixels; the limit is {self.max_pixels}"
            )

    def check_bytes(self, count: int, name: str) -> None:
        """Raise `PictureTooLargeError` if an encoded picture has too many bytes to be read."""
        if count > self.max_bytes:
            raise PictureTooLargeError(f"{name} has more than the limit of {self.max_bytes} bytes")

    def check_blocks(self, blocks: int, name: str) -> None:
        """Raise `PictureTooLargeError` if a JPEG has its blocks decoded too often: see `jpeg.read_jpeg`.

        Of the largest picture, in full colour, ten scans of everything; of a smaller one, more.
        """
        most = self.max_pixels // _PIXELS_A_BLOCK + _FEW_BLOCKS
        if blocks > most:
            raise PictureTooLargeError(
                f"{name} has more than {most} blocks of 8x8 pixels in all its scans; save it as a plain JPEG"
            )


# A block has 64 pixels of one of three colours: 32 blocks for 64 pixels are ten of each and some.
_PIXELS_A_BLOCK = 2
# So that a picture of a few pixels may be progressive under any limit.
_FEW_BLOCKS = 1000
