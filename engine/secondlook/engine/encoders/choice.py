"""Which runtime encodes pictures for a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch

from secondlook.edge.errors import SettingsError
from secondlook.engine.encoders.manifest import read_manifest
from secondlook.engine.encoders.onnx_runtime import Provider, open_onnx
from secondlook.engine.encoders.tensorrt import TensorRtVisionEncoder, open_engine
from secondlook.engine.models.base import VisionLanguageModel

__all__ = ["EncoderChoice", "OpenEngine", "Vision", "with_vision"]

Vision = Literal["torch", "onnx", "tensorrt"]
"""What runs the vision tower and the projector."""


@dataclass(frozen=True)
class EncoderChoice:
    """A runtime, and the exported encoder that it runs.

    Attributes:
        vision: "torch" takes the checkpoint's own modules.
        folder: of the exported encoder, or of a TensorRT engine; None for torch.
        provider: of ONNX Runtime.
        trust_engine: open a TensorRT engine from outside the cache of this user; it is executable code.
    """

    vision: Vision = "torch"
    folder: Path | None = None
    provider: Provider = "auto"
    trust_engine: bool = False

    def __post_init__(self) -> None:
        if self.vision not in get_args(Vision):
            raise SettingsError(f"vision must be one of {', '.join(get_args(Vision))}, not {self.vision!r}")
        if self.vision == "torch" and self.folder is not None:
            raise SettingsError(
                f"encoder {self.folder} is not for torch; add --vision onnx or --vision tensorrt"
            )
        if self.vision != "torch" and self.folder is None:
            raise SettingsError(
                f"--vision {self.vision} needs --encoder FOLDER; make one with secondlook export"
            )
        if self.provider != "auto" and self.vision != "onnx":
            raise SettingsError(f"provider {self.provider!r} is ONNX Runtime's; add --vision onnx")
        if self.trust_engine and self.vision != "tensorrt":
            raise SettingsError("--trust-engine is about TensorRT engines; add --vision tensorrt")


class OpenEngine(Protocol):
    """What opens a TensorRT engine: `open_engine`, or what builds one first where none runs."""

    def __call__(
        self, folder: Path, device: torch.device, *, trusted: bool = False
    ) -> TensorRtVisionEncoder: ...


def with_vision(
    model: VisionLanguageModel, choice: EncoderChoice, open_engine: OpenEngine = open_engine
) -> VisionLanguageModel:
    """The model, its pictures encoded by the runtime chosen.

    Args:
        open_engine: opens a TensorRT engine.

    Raises:
        EncoderError: the encoder was made from another model, is not as it was exported, or its runtime is
            missing.
    """
    if choice.folder is None:
        return model
    if choice.vision == "tensorrt":
        encoder = open_engine(choice.folder, model.device, trusted=choice.trust_engine)
        encoder.manifest.encoder.check_fits(choice.folder, model)
        return model.with_encoder(encoder)
    manifest = read_manifest(choice.folder)
    manifest.check_fits(choice.folder, model)
    return model.with_encoder(open_onnx(choice.folder, manifest, model.device, provider=choice.provider))
