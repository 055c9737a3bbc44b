"""How many examples a property is tried on, where each costs something."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["QUICK", "examples"]

QUICK = "quick"
"""The profile of hypothesis that `conftest` chooses where slow tests are left out."""

settings.register_profile(QUICK, max_examples=30)


def examples(whole: int) -> int:
    """So many under `make test-all`; of a hundred, thirty under `make test`, and at least three."""
    return max(3, whole * settings().max_examples // 100)
