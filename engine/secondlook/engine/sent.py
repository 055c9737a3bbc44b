"""Pictures as edges send them, held to a model's views."""

from __future__ import annotations

from PIL import Image

from secondlook.edge.geometry import Size, sent_size
from secondlook.edge.wire import View
from secondlook.engine.errors import PictureMismatchError

__all__ = ["check_sent"]


def check_sent(image: Image.Image, view: View, shown: Size, what: str) -> None:
    """Refuse an image larger than an edge sends of an original (or region) of this size.

    Args:
        what: the image is, for the message.

    Raises:
        PictureMismatchError: it is larger.
        GeometryError: see `secondlook.edge.geometry.target`.
    """
    most = sent_size(view, shown)
    if image.width > most.width or image.height > most.height:
        raise PictureMismatchError(
            f"the {what} has {image.width}x{image.height} pixels, but of {shown} pixels at most {most} are "
            "taken: shrink it to that, without padding, and never enlarge it"
        )
