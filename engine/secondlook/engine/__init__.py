"""The server's side of secondlook: models, decoding, doubt, where to look closer, and what to keep.

The names below are imported when first used, because torch and transformers take seconds to import, and a
command's `--help` needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.engine.attention import ATTENTION
    from secondlook.engine.budget import Budget, BudgetSettings
    from secondlook.engine.encoders.choice import EncoderChoice, with_vision
    from secondlook.engine.encoders.engine_manifest import BuildOptions
    from secondlook.engine.encoders.engine_store import RebuildNeededError, UntrustedEngineError
    from secondlook.engine.encoders.manifest import EncoderManifest, read_manifest
    from secondlook.engine.encoders.profiles import BatchProfile
    from secondlook.engine.errors import (
        AnsweredSessionError,
        DeviceError,
        EmptyQuestionError,
        EncoderError,
        EncoderMismatchError,
        EngineFailedError,
        ExpiredSessionError,
        IncompleteModelError,
        InvalidEncoderError,
        InvalidModelError,
        ModelError,
        ModelNotFoundError,
        ModelNotReadyError,
        NonFiniteError,
        OutOfMemoryError,
        PictureMismatchError,
        PolicyFileError,
        QuestionError,
        QuestionTooLongError,
        QueueFullError,
        ReservedTextError,
        RuntimeMissingError,
        SessionError,
        ShuttingDownError,
        UnknownSessionError,
        UnsupportedModelError,
    )
    from secondlook.engine.llava import LlavaAdapter
    from secondlook.engine.loading import DType, load_model
    from secondlook.engine.look_settings import LookSettings
    from secondlook.engine.looks import AttentionMaps, Engine, FinalAnswer, FirstLook, Look, Pending
    from secondlook.engine.policy import Policy, keep_second, no_detail_to_gain, wants_second_look
    from secondlook.engine.policy_file import PolicyFile, read_policy
    from secondlook.engine.prompts import GENERIC_QUESTION
    from secondlook.engine.region import RegionSettings, find_region
    from secondlook.engine.uncertainty import TokenStatistics, aggregate
    from secondlook.engine.vision import VisionEncoder

__all__ = [
    "ATTENTION",
    "GENERIC_QUESTION",
    "AnsweredSessionError",
    "AttentionMaps",
    "BatchProfile",
    "Budget",
    "BudgetSettings",
    "BuildOptions",
    "DType",
    "DeviceError",
    "EmptyQuestionError",
    "EncoderChoice",
    "EncoderError",
    "EncoderManifest",
    "EncoderMismatchError",
    "Engine",
    "EngineFailedError",
    "ExpiredSessionError",
    "FinalAnswer",
    "FirstLook",
    "IncompleteModelError",
    "InvalidEncoderError",
    "InvalidModelError",
    "LlavaAdapter",
    "Look",
    "LookSettings",
    "ModelError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "NonFiniteError",
    "OutOfMemoryError",
    "Pending",
    "PictureMismatchError",
    "Policy",
    "PolicyFile",
    "PolicyFileError",
    "QuestionError",
    "QuestionTooLongError",
    "QueueFullError",
    "RebuildNeededError",
    "RegionSettings",
    "ReservedTextError",
    "RuntimeMissingError",
    "SessionError",
    "ShuttingDownError",
    "TokenStatistics",
    "UnknownSessionError",
    "UnsupportedModelError",
    "UntrustedEngineError",
    "VisionEncoder",
    "aggregate",
    "find_region",
    "keep_second",
    "load_model",
    "no_detail_to_gain",
    "read_manifest",
    "read_policy",
    "wants_second_look",
    "with_vision",
]

_HOMES = {
    "ATTENTION": "attention",
    "AnsweredSessionError": "errors",
    "AttentionMaps": "looks",
    "BatchProfile": "encoders.profiles",
    "BuildOptions": "encoders.engine_manifest",
    "Budget": "budget",
    "BudgetSettings": "budget",
    "DType": "loading",
    "DeviceError": "errors",
    "EmptyQuestionError": "errors",
    "EncoderChoice": "encoders.choice",
    "EncoderError": "errors",
    "EncoderManifest": "encoders.manifest",
    "EncoderMismatchError": "errors",
    "Engine": "looks",
    "EngineFailedError": "errors",
    "ExpiredSessionError": "errors",
    "FinalAnswer": "looks",
    "FirstLook": "looks",
    "GENERIC_QUESTION": "prompts",
    "IncompleteModelError": "errors",
    "InvalidEncoderError": "errors",
    "InvalidModelError": "errors",
    "LlavaAdapter": "llava",
    "Look": "looks",
    "LookSettings": "look_settings",
    "ModelError": "errors",
    "ModelNotFoundError": "errors",
    "ModelNotReadyError": "errors",
    "NonFiniteError": "errors",
    "OutOfMemoryError": "errors",
    "Pending": "looks",
    "PictureMismatchError": "errors",
    "Policy": "policy",
    "PolicyFile": "policy_file",
    "PolicyFileError": "errors",
    "QuestionError": "errors",
    "QuestionTooLongError": "errors",
    "QueueFullError": "errors",
    "RebuildNeededError": "encoders.engine_store",
    "RegionSettings": "region",
    "ReservedTextError": "errors",
    "RuntimeMissingError": "errors",
    "SessionError": "errors",
    "ShuttingDownError": "errors",
    "TokenStatistics": "uncertainty",
    "UnknownSessionError": "errors",
    "UnsupportedModelError": "errors",
    "UntrustedEngineError": "encoders.engine_store",
    "VisionEncoder": "vision",
    "aggregate": "uncertainty",
    "find_region": "region",
    "keep_second": "policy",
    "load_model": "loading",
    "no_detail_to_gain": "policy",
    "read_manifest": "encoders.manifest",
    "read_policy": "policy_file",
    "wants_second_look": "policy",
    "with_vision": "encoders.choice",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
