"""Pictures asked about again: where the keys and values of their prefix still are.

A picture is known by its client and the digest of its decoded, fitted pixels, so that nothing of one client's
pictures can be learnt by another, not even by its speed.
"""

from __future__ import annotations

from secondlook.engine.kv_cache import KeptPrefix
from secondlook.engine.vision import Square

__all__ = ["PrefixIndex"]


class PrefixIndex:
    """Kept prefixes by client and picture; as many at most as there are slots that can hold them.

    Attributes:
        hits, misses: how often a picture's prefix was there when it was asked for, and how often not.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._known: dict[tuple[str, bytes], KeptPrefix] = {}
        self.hits = 0
        self.misses = 0

    def find(self, client: str, picture: Square) -> KeptPrefix | None:
        """The picture's prefix, if it is still in a slot."""
        found = self._known.get((client, picture.digest))
        if found is None or found.slot is None:
            self.misses += 1
            return None
        self.hits += 1
        return found

    def hold(
        self, prefix: KeptPrefix, client: str, picture: Square, known: KeptPrefix | None = None
    ) -> KeptPrefix:
        """Remember where the picture's prefix is; `known` is another of the same picture."""
        if prefix.generic is None and known is not None:
            prefix.generic = known.generic
        self._known[client, picture.digest] = prefix
        if len(self._known) > 2 * self._slots:
            self._known = {name: kept for name, kept in self._known.items() if kept.slot is not None}
        return prefix
