"""The stronger baselines: the published way with more of what transformers offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

from secondlook.benchmarks.latency.reference import ReferenceFlow

__all__ = ["EncodingOnceFlow", "StrongFlow"]

_ONE_EAGER_LAYER: Final = "secondlook_one_eager_layer"
"""Transformers' name for the attention function of this module; importing registers it."""


class StrongFlow(ReferenceFlow):
    """The published way with SDPA, a static cache of just the length needed, and attention weights at the
    probe layer only, with logits of the last position only.

    Each of its four passes encodes its images anew, as `generate` does when given pixels: five for two
    pictures. Nothing is compiled: on a GPU `generate` would otherwise compile for each length of prompt.
    """

    name = "strong"
    _probed_attention: ClassVar[str | dict[str, str]] = {
        "text_config": _ONE_EAGER_LAYER,
        "vision_config": "sdpa",
    }

    def _generate_options(self, length: int) -> dict[str, Any]:
        # The last token is never fed back. A cache of our own, for that of `generate` stays as long as its
        # longest prompt so far.
        cache = StaticCache(config=self._model.config.get_text_config(), max_cache_len=length - 1)
        return {"past_key_values": cache, "disable_compile": True}

    def _attention(self, question: str, pictures: Tensor) -> Tensor:
        wanted = _EagerLayer(self._preset.settings.probe_layer)
        inputs = self._inputs(question, pictures)
        self._probed(**inputs, logits_to_keep=1, use_cache=False, eager_layer=wanted)
        assert wanted.weights is not None, "the probe layer did not run"
        return self._image_row(wanted.weights)


class EncodingOnceFlow(StrongFlow):
    """The same, but each picture is encoded once, by transformers' own vision tower, and its features are
    handed to every pass (`mm_encoder_outputs`)."""

    name = "encoding_once"

    def _pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Features [n, N, D]."""
        output = self._model.get_image_features(pixel_values=super()._pictures(images), return_dict=True)
        return torch.stack(output.pooler_output)

    def _image_inputs(self, pictures: Tensor) -> dict[str, Any]:
        output = BaseModelOutputWithPooling(pooler_output=list(pictures))  # type: ignore[arg-type]
        return {"mm_encoder_outputs": {"image": output}}


@dataclass
class _EagerLayer:
    """A request for the attention weights [B, H, n, n] of one layer, and, after the pass, the weights."""

    layer: int
    weights: Tensor | None = field(default=None, init=False)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    eager_layer: _EagerLayer,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA, but for the layer wanted; query [B, H, n, D], key and value [B, Hkv, n, D], causal."""
    if getattr(module, "layer_idx", None) != eager_layer.layer:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    future = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(future, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    eager_layer.weights = weights
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ONE_EAGER_LAYER, _attend)
AttentionMaskInterface.register(_ONE_EAGER_LAYER, sdpa_mask)
