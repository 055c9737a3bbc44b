"""A calibrated policy, made up."""

from __future__ import annotations

from typing import Any

from secondlook.engine.method.policy_file import CalibratedOn, Estimate, PolicyFile, Target, WrongShare

WEIGHTS = "0123456789abcdef"


def a_policy_file(
    threshold: float = 0.5,
    weights: str = WEIGHTS,
    localisation: dict[str, Any] | None = None,
    **policy: Any,
) -> PolicyFile:
    """For the model of these weights, in float32."""
    values: dict[str, Any] = {
        "measure": "min_entropy",
        "aggregation": "all",
        "first_k": 5,
        "include_eos": True,
        "arbitration": True,
        "decide_after": 5,
    }
    estimate = Estimate(value=threshold, low=threshold, high=threshold)
    return PolicyFile(
        threshold=threshold,
        **(values | policy),
        target=Target(kind="retransmission_rate", value=0.4),
        threshold_interval=estimate,
        expected={"retransmission_rate": estimate, "accuracy": estimate, "bytes": estimate},
        confidence=0.95,
        wrong_unrefined=WrongShare(bound=0.1, confidence=0.95, unrefined=60, wrong=2, candidates=1),
        calibrated_on=CalibratedOn(
            logs=("89abcdef01234567",),
            model="demo",
            weights=weights,
            dtype="float32",
            data={"name": "signs", "seed": 1},
            jpeg={"global": {"quality": 90}},
            pictures=80,
            questions=100,
            localisation=localisation,
        ),
    )
