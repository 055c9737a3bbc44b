"""A small LLaVA with an exported encoder, and pictures to ask about."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.checkpoints import Variant, write_checkpoint
from secondlook.engine.encoders.manifest import EncoderManifest, GraphDType, graph_file, weights_file
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model
from secondlook.export import ExportSettings, GatePicture, GateSettings, export_encoder

QUICK = GateSettings(pictures=3, questions=6)
QUESTIONS = ("What is on the sign", "Is the number 7 on the sign")
CPU = torch.device("cpu")
GRAPH_FILE, WEIGHTS_FILE = graph_file("encoder"), weights_file("encoder")


@dataclass(frozen=True)
class Exported:
    """A model, and its encoder in a folder."""

    model: VisionLanguageModel
    folder: Path
    manifest: EncoderManifest


def small_model(folder: Path, seed: int = 3) -> VisionLanguageModel:
    return load_model(str(write_checkpoint(folder, Variant(seed=seed))), dtype="float32", device="cpu")


def export_small(model: VisionLanguageModel, folder: Path, dtype: GraphDType = "float32") -> Exported:
    return Exported(model, folder, export_encoder(model, folder, ExportSettings(dtype, gate=QUICK), asked()))


def asked() -> Iterator[GatePicture]:
    """Pictures of coloured patches without end, always the same."""
    for seed in count():
        patches = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(patches).resize((480, 360), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        yield GatePicture(buffer.getvalue(), QUESTIONS)
