"""Models written as folders that other projects load as they are, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save

from secondlook.edge.files import write_files

__all__ = ["save_model"]

_PUBLIC: Final = {"llava": ("vision_tower.", "vision_tower.vision_model.")}
"""By `model_type`, what transformers 5 writes before a tensor's name, and what public checkpoints have. Its
CLIP tower is one module less deep than it was, and it saves under the new names; others know the old ones."""


def save_model(model: Any, folder: Path) -> None:
    """Write a model of transformers': its settings, and its weights in one file, each tensor named as in the
    public checkpoints of its architecture."""
    model.save_pretrained(folder)
    if model.config.model_type in _PUBLIC:
        written, public = _PUBLIC[model.config.model_type]
        path = folder / "model.safetensors"
        tensors = {
            public + name.removeprefix(written) if name.startswith(written) else name: tensor
            for name, tensor in load_file(path).items()
        }
        write_files({path: save(tensors, {"format": "pt"})})
