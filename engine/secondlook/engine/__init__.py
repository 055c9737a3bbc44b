"""The server's side of secondlook: models, decoding, doubt, where to look closer, and what to keep.

The names below are imported when first used, because torch and transformers take seconds to import, and a
command's `--help` needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.engine.encoders.choice import EncoderChoice, with_vision
    from secondlook.engine.encoders.engine_manifest import BuildOptions
    from secondlook.engine.encoders.engine_store import RebuildNeededError, UntrustedEngineError
    from secondlook.engine.encoders.manifest import EncoderManifest, read_manifest
    from secondlook.engine.encoders.profiles import BatchProfile
    from secondlook.engine.engine import Engine
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
    from secondlook.engine.method.budget import Budget, BudgetSettings
    from secondlook.engine.method.decision import no_detail_to_gain
    from secondlook.engine.method.policy import Policy, keep_second
    from secondlook.engine.method.policy_file import PolicyFile, read_policy
    from secondlook.engine.method.region import RegionSettings, find_region
    from secondlook.engine.method.uncertainty import TokenStatistics, aggregate
    from secondlook.engine.models.attention import ATTENTION
    from secondlook.engine.models.base import Features, Picture, Prompt, VisionEncoder, VisionLanguageModel
    from secondlook.engine.models.checkpoint import DType, load_model
    from secondlook.engine.models.prompts import GENERIC_QUESTION
    from secondlook.engine.models.settings import Localisation, LookSettings
    from secondlook.engine.results import AttentionMaps, FinalAnswer, FirstLook, Look, Pending, Question

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
    "Features",
    "FinalAnswer",
    "FirstLook",
    "IncompleteModelError",
    "InvalidEncoderError",
    "InvalidModelError",
    "Localisation",
    "Look",
    "LookSettings",
    "ModelError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "NonFiniteError",
    "OutOfMemoryError",
    "Pending",
    "Picture",
    "PictureMismatchError",
    "Policy",
    "PolicyFile",
    "PolicyFileError",
    "Prompt",
    "Question",
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
    "VisionLanguageModel",
    "aggregate",
    "find_region",
    "keep_second",
    "load_model",
    "no_detail_to_gain",
    "read_manifest",
    "read_policy",
    "with_vision",
]

_HOMES = {
    "ATTENTION": "models.attention",
    "AnsweredSessionError": "errors",
    "AttentionMaps": "results",
    "BatchProfile": "encoders.profiles",
    "BuildOptions": "encoders.engine_manifest",
    "Budget": "method.budget",
    "BudgetSettings": "method.budget",
    "DType": "models.checkpoint",
    "DeviceError": "errors",
    "EmptyQuestionError": "errors",
    "EncoderChoice": "encoders.choice",
    "EncoderError": "errors",
    "EncoderManifest": "encoders.manifest",
    "EncoderMismatchError": "errors",
    "Engine": "engine",
    "EngineFailedError": "errors",
    "ExpiredSessionError": "errors",
    "FinalAnswer": "results",
    "FirstLook": "results",
    "GENERIC_QUESTION": "models.prompts",
    "IncompleteModelError": "errors",
    "InvalidEncoderError": "errors",
    "InvalidModelError": "errors",
    "Localisation": "models.settings",
    "Look": "results",
    "LookSettings": "models.settings",
    "ModelError": "errors",
    "ModelNotFoundError": "errors",
    "ModelNotReadyError": "errors",
    "NonFiniteError": "errors",
    "OutOfMemoryError": "errors",
    "Pending": "results",
    "PictureMismatchError": "errors",
    "Policy": "method.policy",
    "PolicyFile": "method.policy_file",
    "PolicyFileError": "errors",
    "Question": "results",
    "QuestionError": "errors",
    "QuestionTooLongError": "errors",
    "QueueFullError": "errors",
    "RebuildNeededError": "encoders.engine_store",
    "RegionSettings": "method.region",
    "ReservedTextError": "errors",
    "RuntimeMissingError": "errors",
    "SessionError": "errors",
    "ShuttingDownError": "errors",
    "TokenStatistics": "method.uncertainty",
    "UnknownSessionError": "errors",
    "UnsupportedModelError": "errors",
    "UntrustedEngineError": "encoders.engine_store",
    "VisionEncoder": "models.base",
    "VisionLanguageModel": "models.base",
    "Features": "models.base",
    "Prompt": "models.base",
    "Picture": "models.pictures",
    "aggregate": "method.uncertainty",
    "find_region": "method.region",
    "keep_second": "method.policy",
    "load_model": "models.checkpoint",
    "no_detail_to_gain": "method.decision",
    "read_manifest": "encoders.manifest",
    "read_policy": "method.policy_file",
    "with_vision": "encoders.choice",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
