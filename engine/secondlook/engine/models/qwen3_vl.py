"""Qwen3-VL, dense (Bai et al., arXiv 2511.21631): as Qwen2.5-VL, with learned positions, and with DeepStack.

DeepStack (Meng et al., arXiv 2406.04334): what inner layers of the tower saw is added behind the decoder's
first layers, at the pictures' rows.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3VLForConditionalGeneration

from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.qwen import CROP_SIZE, Qwen, loaded
from secondlook.engine.models.settings import Localisation

__all__ = ["SUPPORTED", "default_localisation", "load"]

SUPPORTED = "Qwen3-VL (model_type qwen3_vl, not its mixtures of experts)"

_PUBLISHED: dict[tuple[int, int, int], dict[int, tuple[int, ...]]] = {
    (36, 32, 2560): {19: (24, 27), 24: (21, 23)},
    (36, 32, 4096): {19: (24, 26, 27), 24: (21, 22, 23)},
}
"""Heads of the 4B and the 8B that look where a question about text asks; by layers, heads and width."""


def load(checkpoint: Checkpoint) -> Qwen:
    """The model of a folder; raises as `Checkpoint` does."""
    config = checkpoint.config()
    return loaded(checkpoint, Qwen3VLForConditionalGeneration, config, default_localisation(config))


def default_localisation(config: Any) -> Localisation:
    """Of the 4B and the 8B the heads in the public code of Q-Zoom (arXiv 2604.06912), not tried here on real
    weights; of others the mean of the heads at the relative depth of Qwen2.5-VL's layer."""
    text = config.text_config
    shape = text.num_hidden_layers, text.num_attention_heads, text.hidden_size
    if (heads := _PUBLISHED.get(shape)) is not None:
        return Localisation({layer: dict.fromkeys(some, 1.0) for layer, some in heads.items()}, CROP_SIZE)
    return Localisation({text.num_hidden_layers * 22 // 36: None}, CROP_SIZE)
