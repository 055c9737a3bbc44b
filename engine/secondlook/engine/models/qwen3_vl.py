"""Qwen3-VL, dense (Bai et al., arXiv 2511.21631): as Qwen2.5-VL, with learned positions, and with DeepStack.

DeepStack (Meng et al., arXiv 2406.04334): what inner layers of the tower saw is added behind the decoder's
first layers, at the pictures' rows.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3VLForConditionalGeneration

from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.profiles import PUBLISHED
from secondlook.engine.models.qwen import CROP_SIZE, Qwen, loaded
from secondlook.engine.models.settings import Localisation

__all__ = ["SUPPORTED", "default_localisation", "load"]

SUPPORTED = "Qwen3-VL (model_type qwen3_vl, not its mixtures of experts)"


def load(checkpoint: Checkpoint) -> Qwen:
    """The model of a folder; raises as `Checkpoint` does."""
    config = checkpoint.config()
    return loaded(checkpoint, Qwen3VLForConditionalGeneration, config, default_localisation(config))


def default_localisation(config: Any) -> Localisation:
    """Of the 4B and the 8B the published heads for questions about text, without the cells of their sinks,
    where plain attention sits; of others the mean of the heads at the relative depth of Qwen2.5-VL's."""
    text = config.text_config
    shape = text.num_hidden_layers, text.num_attention_heads, text.hidden_size
    for known in (PUBLISHED["qwen3-vl-4b-text"], PUBLISHED["qwen3-vl-8b-text"]):
        if known.shape == shape:
            return Localisation(known.layers, CROP_SIZE, sink=known.sink)
    return Localisation({text.num_hidden_layers * 22 // 36: None}, CROP_SIZE)
