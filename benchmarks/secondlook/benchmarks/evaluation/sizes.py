"""A model's sizes, as a log states them: enough to count its FLOPs without it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from transformers import AutoConfig

from secondlook.benchmarks.latency.flops import PassFlops
from secondlook.engine.models.llava import LlavaAdapter

__all__ = ["ModelSizes"]


@dataclass(frozen=True)
class ModelSizes:
    """Of the decoder, of the vision tower, and of prompts.

    Attributes:
        feature_layer: the vision tower's layer that features are taken from, as transformers counts.
        prefix, generic: tokens of a prompt through the end of the global image, and of the generic question's
            whole prompt.
    """

    layers: int
    width: int
    intermediate: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    vision_layers: int
    vision_width: int
    vision_intermediate: int
    image_size: int
    patch_size: int
    channels: int
    feature_layer: int
    prefix: int
    generic: int

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{each.name} must be a whole number, not {value!r}")

    @classmethod
    def of(cls, model: LlavaAdapter) -> ModelSizes:
        text: Any = model.module.config.text_config
        vision: Any = model.module.config.vision_config
        return cls(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
            vision_layers=vision.num_hidden_layers,
            vision_width=vision.hidden_size,
            vision_intermediate=vision.intermediate_size,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            channels=vision.num_channels,
            feature_layer=model.feature_layer,
            prefix=len(model.layout.prefix),
            generic=len(model.layout.generic.ids),
        )

    def passes(self) -> PassFlops:
        """FLOPs of the model's passes."""
        return _passes(self)


@cache
def _passes(sizes: ModelSizes) -> PassFlops:
    """Counted once: that takes half a second."""
    text = {
        "model_type": "llama",
        "num_hidden_layers": sizes.layers,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.intermediate,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_heads,
        "head_dim": sizes.head_width,
        "vocab_size": sizes.vocabulary,
    }
    vision = {
        "model_type": "clip_vision_model",
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": 1,  # as many products as with any
        "hidden_size": sizes.vision_width,
        "intermediate_size": sizes.vision_intermediate,
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "num_channels": sizes.channels,
    }
    layer = sizes.feature_layer
    return PassFlops(
        AutoConfig.for_model("llava", text_config=text, vision_config=vision, vision_feature_layer=layer)
    )
