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
    "smolvlm": "secondlook.engine.models.smolvlm",
    "idefics3": "secondlook.engine.models.smolvlm",
    "internvl": "secondlook.engine.models.internvl",
}

_BOTH_WAYS = (
    "its decoder lets the tokens of a picture attend to each other in both directions, and here all is causal"
)
_EXPERTS = "its decoder is a mixture of experts, whose choice of experts here is not tried"
_RECURRENT = "its decoder has recurrent layers, whose state the cache of keys and values does not keep"
_CROSSED = "its decoder sees pictures by cross attention, not in rows of its prompt"

_REFUSED = {
    "gemma3": _BOTH_WAYS,
    "gemma3n": "its decoder shares keys and values between layers, which the cache does not",
    "gemma4": _BOTH_WAYS,
    "gemma4_unified": _BOTH_WAYS,
    "idefics": _CROSSED,
    "mllama": _CROSSED,
    "paligemma": _BOTH_WAYS,
    "qwen3_5": _RECURRENT,
    "qwen3_5_moe": _RECURRENT,
    "qwen3_vl_moe": _EXPERTS,
}
"""Why, for architectures that are asked for and cannot be served."""


def architecture(model_type: object, folder: object) -> ModuleType:
    """The module for a `model_type`.

    Raises:
        UnsupportedModelError: there is none; the message says what is supported, and why, if known.
    """
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        reason = _REFUSED.get(str(model_type))
        why = f", which is not served: {reason}" if reason else ""
        modules = dict.fromkeys(ARCHITECTURES.values())
        supported = "; ".join(import_module(name).SUPPORTED for name in modules)
        raise UnsupportedModelError(f"{folder} holds model_type {model_type}{why}; supported is {supported}")
    return import_module(ARCHITECTURES[model_type])
