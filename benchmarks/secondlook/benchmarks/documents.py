"""Generated parts of documents, between a line `<!-- NAME -->` and a line `<!-- end of NAME -->`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["digits", "fill", "filled", "share"]


def filled(document: str, name: str, text: str) -> str:
    """The document with `text`, whole lines, between the markers of this name.

    Raises:
        ValueError: a marker is missing.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the document lacks the lines {begin.strip()} and {end.strip()}")
    return before + begin + text + end + after


def fill(document: Path, name: str, text: str) -> None:
    """The same, in a file."""
    document.write_text(filled(document.read_text(encoding="utf-8"), name, text), encoding="utf-8")


def digits(value: float) -> str:
    """Three of them, and all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def share(value: float, places: int = 1) -> str:
    """As a percentage: "57.6 %"."""
    return f"{100 * value:.{places}f} %"
