"""Export's branch of the project's exception tree.

EncoderError (secondlook.engine.errors)
├── ExportError             an encoder cannot be exported
│   ├── OutputError             its folder cannot be written, or is there already
│   └── GateError               it is not what torch computes; carries everything that failed
└── PlanBuildError          a TensorRT plan cannot be built, or not be kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from secondlook.engine.errors import EncoderError

__all__ = ["Check", "ExportError", "Failure", "GateError", "OutputError", "PlanBuildError"]

Check = Literal["graph", "interface", "features", "finite", "answers", "uncertainty", "regions"]
"""What the gate looks at."""


class ExportError(EncoderError):
    """An encoder cannot be exported."""


class OutputError(ExportError):
    """The folder of an export cannot be written, or is there already; nothing half-written is left."""


class PlanBuildError(EncoderError):
    """A TensorRT plan cannot be built or written; nothing half-written is left behind."""


@dataclass(frozen=True)
class Failure:
    """One thing that the gate found wrong."""

    check: Check
    message: str


class GateError(ExportError):
    """An encoder did not pass the gate.

    Attributes:
        failures: everything that failed.
    """

    def __init__(self, what: str, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        found = "; ".join(f"{failure.check}: {failure.message}" for failure in failures)
        super().__init__(f"{what} does not pass the gate: {found}")
