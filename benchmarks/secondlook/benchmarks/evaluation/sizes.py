"""A model's sizes, as a log states them: enough to count its FLOPs without it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

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
        text = SimpleNamespace(
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            intermediate_size=self.intermediate,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head_width,
            vocab_size=self.vocabulary,
        )
        vision = SimpleNamespace(
            num_hidden_layers=self.vision_layers,
            hidden_size=self.vision_width,
            intermediate_size=self.vision_intermediate,
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=self.channels,
        )
        layer = self.feature_layer
        return PassFlops(SimpleNamespace(text_config=text, vision_config=vision, vision_feature_layer=layer))
