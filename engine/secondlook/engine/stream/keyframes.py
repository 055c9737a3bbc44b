"""Key frames: which of a stream's frames the cloud is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import Field

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated

__all__ = ["KeyFrames"]

_EARLY: Final = 1e-6
"""Seconds. Frames come at their own times: one that is so little early is not left for the next."""


@validated(frozen=True)
class KeyFrames:
    """A rule: `doubt`, where the answer that stands is not likely enough; `busy`, whenever the cloud has
    room; `every` so many seconds. All but the last wait for nothing but room.

    Attributes:
        seconds: between two key frames, for `every`.
        likely: chance of being right from which an answer needs no cloud, for `doubt`.
    """

    rule: Literal["doubt", "busy", "every"] = "doubt"
    seconds: Annotated[float, Field(gt=0)] | None = None
    likely: Annotated[float, Field(ge=0, le=1)] = 0.97

    def __post_init__(self) -> None:
        if (self.rule == "every") != (self.seconds is not None):
            raise SettingsError(
                "key frames every so many seconds need that number, and no other rule takes one"
            )

    @classmethod
    def parsed(cls, text: str) -> KeyFrames:
        """From `doubt`, `busy` or `every:SECONDS`.

        Raises:
            SettingsError: it is none of them.
        """
        rule, colon, seconds = text.partition(":")
        try:
            if rule == "doubt" and not colon:
                return cls("doubt")
            if rule == "busy" and not colon:
                return cls("busy")
            if rule == "every" and float(seconds) > 0:
                return cls("every", float(seconds))
        except ValueError:
            pass  # told below
        raise SettingsError(f"key frames are doubt, busy or every:SECONDS (above 0), not {text!r}")

    def wants(self, chance: Callable[[], float], captured: float, last: float | None) -> bool:
        """Whether a frame should be asked about, where there is room.

        Args:
            chance: tells that of the answer which stands for it to be right.
            captured, last: seconds of this frame, and of the last one asked about.
        """
        if self.rule == "every":
            assert self.seconds is not None, "checked when it was made"
            return last is None or captured - last >= self.seconds - _EARLY
        return self.rule == "busy" or chance() < self.likely
