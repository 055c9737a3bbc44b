"""Pictures asked about again: where the keys and values of their prefix still are.

A picture is known by its client and the digest of its decoded, fitted pixels, so that nothing of one client's
pictures can be learnt by another, not even by its speed. Who is a client, the caller says.
"""

from __future__ import annotations

from secondlook.engine.decode.cache import KeptPrefix
from secondlook.engine.models.vision import Square

__all__ = ["PrefixIndex"]


class PrefixIndex:
    """Kept prefixes by client and picture; not many more than there are in slots or claimed.

    Attributes:
        hits, misses: how often a picture's prefix was there when it was asked for, and how often not.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._known: dict[tuple[str, bytes], KeptPrefix] = {}
        self.hits = 0
        self.misses = 0

    def find(self, client: str, picture: Square) -> KeptPrefix | None:
        """The picture's prefix, which may be given up by now."""
        return self._known.get((client, picture.digest))

    def count(self, *, hit: bool) -> None:
        """A picture's prefix was there, or not."""
        self.hits += hit
        self.misses += not hit

    def remember(self, prefix: KeptPrefix, client: str, picture: Square) -> None:
        """Find the picture's prefix there from now on."""
        self._known[client, picture.digest] = prefix
        if len(self._known) > 2 * self._slots:
            self._known = {
                name: kept for name, kept in self._known.items() if kept.slot is not None or kept.claimed
            }
