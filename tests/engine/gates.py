"""Gates, made up."""

from __future__ import annotations

from secondlook.engine.method.gate import FEATURES, Aim, Gate


def a_gate(intercept: float = 0.0, aim: Aim = "gain", **weights: float) -> Gate:
    """With these weights, and 0 of every other feature."""
    return Gate(1, aim, intercept, dict.fromkeys(FEATURES, 0.0) | weights, pictures=40, questions=60)
