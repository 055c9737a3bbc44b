"""A model's vision encoder and projector for other runtimes, believed only after they agree with torch.

The names below are imported when first used, as in `secondlook.engine`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secondlook.export.answers import GatePicture
    from secondlook.export.errors import ExportError, Failure, GateError, OutputError
    from secondlook.export.exporting import ExportSettings, export_encoder
    from secondlook.export.gate import GateSettings
    from secondlook.export.tensorrt.engines import EngineRequest, make_engine
    from secondlook.export.tensorrt.errors import EngineBuildError
    from secondlook.export.verifying import verify_encoder

__all__ = [
    "EngineBuildError",
    "EngineRequest",
    "ExportError",
    "ExportSettings",
    "Failure",
    "GateError",
    "GatePicture",
    "GateSettings",
    "OutputError",
    "export_encoder",
    "make_engine",
    "verify_encoder",
]

_HOMES = {
    "GatePicture": "answers",
    "EngineBuildError": "tensorrt.errors",
    "EngineRequest": "tensorrt.engines",
    "ExportError": "errors",
    "ExportSettings": "exporting",
    "Failure": "errors",
    "GateError": "errors",
    "GateSettings": "gate",
    "OutputError": "errors",
    "export_encoder": "exporting",
    "make_engine": "tensorrt.engines",
    "verify_encoder": "verifying",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
