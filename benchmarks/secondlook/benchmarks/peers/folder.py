"""A preset as a checkpoint folder, which every engine loads alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from secondlook.benchmarks.checkpoints import save_model
from secondlook.benchmarks.latency.subject import Preset, random_model, write_settings
from secondlook.engine.embedded import DEMO
from secondlook.engine.models.folders import find_folder

__all__ = ["preset_folder"]

_PROCESSOR: Final = {
    "processor_class": "LlavaProcessor",
    "image_token": "<image>",
    "num_additional_image_tokens": 1,
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
}
"""What others read beside what we do."""


@contextmanager
def preset_folder(preset: Preset, seed: int) -> Iterator[Path]:
    """A LLaVA-1.5's files, with random weights in float16, as public ones have them; the embedded model's own
    for `demo`. It is there while the block runs."""
    if preset.name == DEMO:
        yield find_folder(DEMO)
        return
    with TemporaryDirectory(prefix="secondlook-peers-") as name:
        folder = Path(name)
        write_settings(folder, preset.config.to_dict())
        save_model(random_model(preset.config, torch.float16, torch.device("cpu"), seed), folder)
        (folder / "processor_config.json").write_text(json.dumps(_PROCESSOR), encoding="utf-8")
        yield folder
