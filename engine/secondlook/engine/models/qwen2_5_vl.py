"""Qwen2.5-VL (Bai et al., arXiv 2502.13923): a tower that mostly sees within windows, and a Qwen2 decoder."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration

from secondlook.engine.models.checkpoint import Checkpoint
from secondlook.engine.models.qwen import CROP_SIZE, Qwen, loaded
from secondlook.engine.models.settings import Localisation

__all__ = ["SUPPORTED", "default_localisation", "load"]

SUPPORTED = "Qwen2.5-VL (model_type qwen2_5_vl)"


def load(checkpoint: Checkpoint) -> Qwen:
    """The model of a folder; raises as `Checkpoint` does."""
    config = checkpoint.config()
    return loaded(checkpoint, Qwen2_5_VLForConditionalGeneration, config, default_localisation(config))


def default_localisation(config: Any) -> Localisation:
    """What Qwen2.5-VL-3B has in Zhang et al., arXiv 2502.17422: layer 22 of 36, the mean of its heads.

    Other depths read the same relative depth.
    """
    return Localisation({config.text_config.num_hidden_layers * 22 // 36: None}, CROP_SIZE)
