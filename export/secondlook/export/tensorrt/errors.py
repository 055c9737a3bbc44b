"""This part's errors; the tree that they hang in is drawn in secondlook.engine.errors.

EncoderError (secondlook.engine.errors)
└── EngineBuildError        a TensorRT engine cannot be built, or not be kept
"""

from __future__ import annotations

from secondlook.engine.errors import EncoderError

__all__ = ["EngineBuildError"]


class EngineBuildError(EncoderError):
    """A TensorRT engine cannot be built or written; nothing half-written is left behind."""
