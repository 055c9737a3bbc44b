"""What encodes pictures for a model: its own modules in torch, or what export and build wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated
from secondlook.engine.encoders.fastest import with_fastest
from secondlook.engine.encoders.manifest import read_manifest
from secondlook.engine.encoders.onnx_runtime import Provider, open_onnx
from secondlook.engine.encoders.openvino import Precision, open_openvino
from secondlook.engine.encoders.tensorrt import open_plan
from secondlook.engine.errors import RuntimeMissingError
from secondlook.engine.models.base import VisionLanguageModel
from secondlook.engine.plugins import PLAN_BUILDERS, plugins

__all__ = ["EncoderChoice", "Vision", "with_vision"]

Vision = Literal["torch", "onnx", "openvino", "tensorrt", "auto"]
"""What runs the vision tower and the projector; "auto": the fastest that is here."""


@validated(frozen=True)
class EncoderChoice:
    """A runtime, and the exported encoder that it runs.

    Attributes:
        vision: "torch" takes the checkpoint's own modules; "auto" what `with_fastest` finds.
        folder: of the exported encoder, or of a TensorRT plan; None for torch.
        provider: of ONNX Runtime.
        trust_plan: open a TensorRT plan from outside the cache of this user; it is executable code.
        rebuild: build a TensorRT plan that does not run here again.
        precision: of OpenVINO.
    """

    vision: Vision = "torch"
    folder: Path | None = None
    provider: Provider = "auto"
    trust_plan: bool = False
    rebuild: bool = False
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.vision == "torch" and self.folder is not None:
            raise SettingsError(
                f"encoder {self.folder} is not for torch; add --vision auto, onnx, openvino or tensorrt"
            )
        if self.rebuild and self.vision != "tensorrt":
            raise SettingsError(f"--rebuild builds TensorRT plans, and {self.vision} encodes; leave it out")
        if self.trust_plan and self.vision != "tensorrt":
            raise SettingsError("--trust-plan is about TensorRT plans; add --vision tensorrt")
        if self.vision != "torch" and self.folder is None:
            raise SettingsError(
                f"--vision {self.vision} needs --encoder FOLDER; make one with secondlook export"
            )
        if self.provider != "auto" and self.vision != "onnx":
            raise SettingsError(f"provider {self.provider!r} is ONNX Runtime's; add --vision onnx")
        if self.precision != "auto" and self.vision != "openvino":
            raise SettingsError(f"precision {self.precision!r} is OpenVINO's; add --vision openvino")


def with_vision(model: VisionLanguageModel, choice: EncoderChoice) -> VisionLanguageModel:
    """The model, its pictures encoded by the runtime chosen.

    Raises:
        EncoderError: the encoder was made from another model, is not as it was exported, or its runtime, or
            what builds plans again, is missing.
    """
    if choice.folder is None:
        return model
    if choice.vision == "auto":
        others: tuple[Vision, ...] = ("onnx", "openvino" if model.device.type == "cpu" else "tensorrt")
        candidates: dict[str, Callable[[], VisionLanguageModel]] = {
            one: partial(with_vision, model, replace(choice, vision=one)) for one in others
        }
        return with_fastest(model, choice.folder, candidates)
    if choice.vision == "tensorrt":
        opens = open_plan
        if choice.rebuild:
            builders = plugins(PLAN_BUILDERS)
            if not builders:
                raise RuntimeMissingError(
                    "--rebuild needs what builds plans: pip install 'secondlook[tensorrt]'"
                )
            opens = builders[0].load()
        opened = opens(choice.folder, model.device, trusted=choice.trust_plan)
        opened.manifest.encoder.check_fits(choice.folder, model)
        return model.with_encoder(*opened.encoders)
    manifest = read_manifest(choice.folder)
    manifest.check_fits(choice.folder, model)
    if choice.vision == "openvino":
        encoders = open_openvino(
            choice.folder, manifest, model.device, model.dtype, precision=choice.precision
        )
        return model.with_encoder(*encoders)
    return model.with_encoder(*open_onnx(choice.folder, manifest, model.device, provider=choice.provider))
