"""Prompts asked again: where the keys and values of their prefix still are.

A prefix is known by its client and by what it is of, so that nothing of one client's pictures can be learnt
by another, not even by its speed. Who is a client, the caller says.
"""

from __future__ import annotations

from collections.abc import Hashable

from secondlook.engine.decode.cache import KeptPrefix

__all__ = ["PrefixIndex"]


class PrefixIndex:
    """Kept prefixes by client and key; not many more than there are in slots or claimed.

    Attributes:
        queries: rows of prompts that were begun.
        hits: those of them that were kept.
        recomputed: prefixes that were given up before what was to go on from them.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._known: dict[tuple[str, Hashable], KeptPrefix] = {}
        self.queries = self.hits = self.recomputed = 0

    def find(self, client: str, key: Hashable) -> KeptPrefix | None:
        """The prefix, which may be given up by now."""
        return self._known.get((client, key))

    def count(self, rows: int, prefix: KeptPrefix | None) -> None:
        """A prompt of so many rows begins, with what was kept of it."""
        self.queries += rows
        self.hits += 0 if prefix is None else prefix.length

    def remember(self, prefix: KeptPrefix, client: str, key: Hashable) -> None:
        """Find the prefix there from now on."""
        self._known[client, key] = prefix
        if len(self._known) > 2 * self._slots:
            self._known = {
                name: kept for name, kept in self._known.items() if kept.slot is not None or kept.claimed
            }
