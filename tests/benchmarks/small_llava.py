"""A LLaVA small enough to measure in a test: 6 by 6 tokens an image, four layers, grouped queries."""

from __future__ import annotations

import pytest
import torch

from secondlook.benchmarks import timing
from secondlook.benchmarks.latency import device
from secondlook.benchmarks.latency.subject import Preset, Subject, build_subject, random_preset
from secondlook.edge.wire import Fixed, View

VIEW = View(size=Fixed(width=84, height=84))
"""Its view of every picture."""


def tiny_preset() -> Preset:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 84,
        "patch_size": 14,
    }
    decoder = {
        "vocab_size": 448,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    parts = {
        "vision_config": {"model_type": "clip_vision_model", **vision},
        "text_config": {"model_type": "llama", **decoder},
    }
    return random_preset("tiny", {"model_type": "llava", **parts})


def tiny_subject(seed: int = 0) -> Subject:
    return build_subject(tiny_preset(), torch.float32, torch.device("cpu"), seed=seed)


def measure_rates_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the latency benchmark measure what the device reaches in a moment."""
    monkeypatch.setattr(timing, "_ROUNDS", 1)
    monkeypatch.setattr(timing, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(device, "_VALUES", 2**10)
    monkeypatch.setattr(device, "_SIDES", {"cpu": 64})
