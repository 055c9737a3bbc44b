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
    "instructblip": "secondlook.engine.models.instructblip",
    "smolvlm": "secondlook.engine.models.smolvlm",
    "idefics3": "secondlook.engine.models.smolvlm",
    "internvl": "secondlook.engine.models.internvl",
}


def architecture(model_type: object, folder: object) -> ModuleType:
    """The module for a `model_type`.

    Raises:
        UnsupportedModelError: there is none; the message says what is supported.
    """
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        modules = dict.fromkeys(ARCHITECTURES.values())
        supported = "; ".join(import_module(name).SUPPORTED for name in modules)
        raise UnsupportedModelError(f"{folder} holds model_type {model_type}; supported is {supported}")
    return import_module(ARCHITECTURES[model_type])
