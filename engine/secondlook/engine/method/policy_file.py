"""The file of a calibrated policy: what `secondlook calibrate threshold` writes and `--policy` takes.

One JSON object. It says how doubt is measured and at which threshold of it, or of what a gate expects, a
second look is wanted, and on what that was calibrated. Unknown keys and values of another type are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from secondlook.edge.errors import SettingsError
from secondlook.edge.files import write_files
from secondlook.edge.validation import from_json
from secondlook.edge.wire import Aggregation, Measure
from secondlook.engine.errors import PolicyFileError
from secondlook.engine.method.gate import Gate
from secondlook.engine.method.policy import Policy

__all__ = [
    "CalibratedOn",
    "Estimate",
    "PolicyFile",
    "Target",
    "TargetKind",
    "WrongShare",
    "read_policy",
    "write_policy",
]

_log = logging.getLogger(__name__)

_FORMAT: Final = 1

TargetKind = Literal["retransmission_rate", "bytes", "accuracy"]
"""What was asked for: a share of questions, bytes sent a question (both looks), or a mean score."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Target(_Part):
    """What the threshold was chosen for."""

    kind: TargetKind
    value: float


class Estimate(_Part):
    """A value on the calibration's questions, and its interval: of the given confidence, by the bootstrap."""

    value: float
    low: float
    high: float


class WrongShare(_Part):
    """With this confidence, at most the share `bound` of the answers without a second look is wrong.

    Attributes:
        unrefined, wrong: answers without a second look on the calibration's questions, and how many of them
            are wrong (their score is below a half).
        candidates: thresholds that it holds for at once, the chosen one among them.
    """

    bound: float = Field(ge=0, le=1)
    confidence: float = Field(gt=0, lt=1)
    unrefined: int = Field(ge=0)
    wrong: int = Field(ge=0)
    candidates: int = Field(ge=1)


class CalibratedOn(_Part):
    """Whose answers to what the threshold was chosen on.

    Attributes:
        logs: SHA-256 of the logs, each its first 16 hexadecimal digits.
        weights: digest of the model's weights in their dtype, as `VisionLanguageModel.digest` gives it.
        dtype: their precision, as `VisionLanguageModel.precision` has it.
        data, jpeg: from the log's settings.
        localisation: where the model looked, as in `localisation.json`; None: not known.
    """

    logs: tuple[str, ...] = Field(min_length=1)
    model: str
    weights: str
    dtype: str
    data: dict[str, Any]
    jpeg: dict[str, Any]
    pictures: int = Field(ge=1)
    questions: int = Field(ge=1)
    localisation: dict[str, Any] | None = None


class PolicyFile(_Part):
    """A calibrated policy.

    Attributes:
        threshold to decide_after, gate: see `Policy`.
        threshold_interval: the threshold with its interval.
        expected: retransmission rate, accuracy and bytes a question that the calibration's questions have at
            the threshold; they were chosen on, so that new ones may be a little worse.
        confidence: of every interval.
    """

    format: Literal[1] = _FORMAT
    threshold: float
    measure: Measure
    aggregation: Aggregation
    first_k: int
    include_eos: bool
    arbitration: bool
    decide_after: int
    target: Target
    threshold_interval: Estimate
    expected: dict[TargetKind, Estimate]
    confidence: float = Field(gt=0, lt=1)
    wrong_unrefined: WrongShare
    calibrated_on: CalibratedOn
    gate: Gate | None = None

    @property
    def policy(self) -> Policy:
        """As the engine takes it.

        Raises:
            SettingsError: a value is out of its range.
        """
        names = (
            "threshold",
            "measure",
            "aggregation",
            "first_k",
            "include_eos",
            "arbitration",
            "decide_after",
            "gate",
        )
        return Policy(**{name: getattr(self, name) for name in names})

    def check_model(self, name: str, weights: str, precision: str, localisation: Mapping[str, Any]) -> None:
        """Make sure that the model about to answer is the one that the threshold is for.

        A threshold says nothing about other weights, which are therefore an error, whatever their name, and
        so are weights of fewer bits, or of more. The same weights in another dtype have another digest: they
        cannot be compared, and answer a little differently; that is a warning.

        Raises:
            PolicyFileError: the weights are others.
        """
        ours = self.calibrated_on
        bits, our_bits = (one.partition(" with ")[2] for one in (precision, ours.dtype))
        if bits != our_bits:
            raise PolicyFileError(
                f"the policy was calibrated on {ours.model} in {ours.dtype}, and not on {name} in "
                f"{precision}: weights of fewer bits doubt differently; serve that model, or calibrate on a "
                "log of this one"
            )
        if precision != ours.dtype:
            _log.warning(
                "the policy was calibrated on %s (weights %s) in %s; whether %s in %s has the same weights "
                "cannot be told, and its doubts may differ a little",
                ours.model,
                ours.weights,
                ours.dtype,
                name,
                precision,
            )
        elif weights != ours.weights:
            raise PolicyFileError(
                f"the policy was calibrated on {ours.model} (weights {ours.weights}), and not on {name} "
                f"(weights {weights}); serve that model, or calibrate on a log of this one"
            )
        before = ours.localisation or {}
        others = [key for key, value in before.items() if localisation.get(key, value) != value]
        if others:
            _log.warning(
                "the policy was calibrated with another profile: %s looked closer by other %s; the share of "
                "second looks holds, what they bring may not: calibrate on a log with this --profile",
                ours.model,
                ", ".join(others),
            )


def read_policy(path: Path) -> PolicyFile:
    """The policy in a file.

    Raises:
        PolicyFileError: there is none, it is no policy file, or a value in it is impossible.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise PolicyFileError(f"cannot read the policy {path}: {why}") from error
    try:
        found = from_json(PolicyFile, text)
        found.policy  # noqa: B018 -- checks the values that pydantic does not know the ranges of
    except SettingsError as error:
        raise PolicyFileError(
            f"{path} is not a policy file: {error}; write one with secondlook calibrate threshold"
        ) from error
    return found


def write_policy(found: PolicyFile, path: Path) -> None:
    """Write it, in place of what is there.

    Raises:
        WriteError: it cannot be written.
    """
    write_files({path: found.model_dump_json(indent=4, exclude_none=True) + "\n"})
