"""Which module serves which architecture, by the `model_type` of a checkpoint's config.json.

Each module has `load(checkpoint: Checkpoint) -> VisionLanguageModel`, and says in `SUPPORTED` what it takes.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from secondlook.engine.errors import UnsupportedModelError

__all__ = ["ARCHITECTURES", "architecture"]

ARCHITECTURES = {
    "llava": "secondlook.engine.models.llava",
    "qwen2_5_vl": "secondlook.engine.models.qwen2_5_vl",
    "qwen3_vl": "secondlook.engine.models.qwen3_vl",
    "llava_next": "secondlook.engine.models.llava_next",
    "instructblip": "secondlook.engine.models.instructblip",
}


def architecture(model_type: object, folder: object) -> ModuleType:
    """The module for a `model_type`.

    Raises:
        UnsupportedModelError: there is none; the message says what is supported.
    """
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        supported = "; ".join(import_module(name).SUPPORTED for name in ARCHITECTURES.values())
        raise UnsupportedModelError(f"{folder} holds model_type {model_type}; supported is {supported}")
    return import_module(ARCHITECTURES[model_type])
