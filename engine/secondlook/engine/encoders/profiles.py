"""How many pictures at once a TensorRT plan was built for, and how others are made of them: arithmetic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated
from secondlook.engine.errors import EncoderError
from secondlook.engine.models.vision import Interface, sized

__all__ = ["BatchProfile", "Run", "lengths_of", "parse_profiles", "runs_of", "shapes_of"]


@validated(frozen=True)
class BatchProfile:
    """Pictures of a pass, from `minimum` to `maximum`; the plan is tuned for `optimum`."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise SettingsError(
                f"a profile's batch sizes must rise from at least 1, MIN <= OPT <= MAX, not {self}; "
                "for example 1:2:8"
            )

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    def __contains__(self, batch: int) -> bool:
        return self.minimum <= batch <= self.maximum


@dataclass(frozen=True)
class Run:
    """One execution: `batch` pictures with the profile of index `profile`."""

    batch: int
    profile: int


def lengths_of(interface: Interface, profile: BatchProfile) -> tuple[dict[str, int], ...]:
    """Of a graph's dynamic axes at least, tuned for and at most; tuned for the largest pictures."""
    three = (profile.minimum, 0), (profile.optimum, 1), (profile.maximum, 1)
    return tuple(
        {name: axis.bounds(count, count)[end] for name, axis in interface.axes.items()}
        for count, end in three
    )


def shapes_of(interface: Interface, profile: BatchProfile) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Of each input the three shapes of `lengths_of`."""
    three = lengths_of(interface, profile)
    return {one.name: tuple(sized(one.shape, lengths) for lengths in three) for one in interface.inputs}


def parse_profiles(texts: Sequence[str]) -> tuple[BatchProfile, ...]:
    """Profiles as the command line writes them, MIN:OPT:MAX each.

    Raises:
        SettingsError: there is none, one is written otherwise or impossible, or one is there twice.
    """
    profiles: list[BatchProfile] = []
    for text in texts:
        found = re.fullmatch(r"([0-9]{1,6}):([0-9]{1,6}):([0-9]{1,6})", text.strip())
        if found is None:
            raise SettingsError(f"a profile is written MIN:OPT:MAX, such as 1:2:8, not {text!r}")
        profile = BatchProfile(*map(int, found.groups()))
        if profile in profiles:
            raise SettingsError(f"the profile {profile} is given twice")
        profiles.append(profile)
    if not profiles:
        raise SettingsError("a plan needs at least one profile, such as 1:2:8")
    return tuple(profiles)


@lru_cache(maxsize=256)
def runs_of(batch: int, profiles: tuple[BatchProfile, ...]) -> tuple[Run, ...]:
    """The fewest runs that make up a batch, the largest first; each with the profile of the nearest optimum.

    Raises:
        EncoderError: no sum of the profiles' sizes is this batch, such as 1 for 4:4:8.
    """
    sizes = sorted({size for one in profiles for size in range(one.minimum, min(one.maximum, batch) + 1)})
    made: list[tuple[int, ...] | None] = [()]
    for total in range(1, batch + 1):
        ways = [(size, *rest) for size in sizes if size <= total and (rest := made[total - size]) is not None]
        made.append(min(ways, key=len, default=None))
    if (best := made[batch]) is None:
        raise EncoderError(
            f"the plan has no profile for a batch of {batch}: it was built for "
            f"{', '.join(map(str, profiles))}; build it with --batch 1:2:{max(batch, 2)}"
        )
    return tuple(Run(size, _nearest(size, profiles)) for size in sorted(best, reverse=True))


def _nearest(batch: int, profiles: tuple[BatchProfile, ...]) -> int:
    fitting = [index for index, profile in enumerate(profiles) if batch in profile]
    return min(fitting, key=lambda index: abs(profiles[index].optimum - batch))
