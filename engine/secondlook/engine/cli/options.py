"""The options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "CacheOption",
    "DTypeOption",
    "DeviceOption",
    "EncoderOption",
    "ModelOption",
    "PolicyOption",
    "ProviderOption",
    "RebuildOption",
    "ThresholdOption",
    "TrustOption",
    "VerboseOption",
    "VisionOption",
]

ModelOption = Annotated[
    str, typer.Option("--model", help="demo (the embedded model), a folder, or a hub name.")
]
DTypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0.0, help="Look twice from this uncertainty on; by default the model's own."
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy", help="Policy file of secondlook calibrate, for this model; instead of --threshold."
    ),
]
CacheOption = Annotated[
    float | None,
    typer.Option(
        "--kv-cache-gb",
        help="GiB for keys and values, of answers in progress and kept for second looks; by default 2 on a "
        "CPU, and half of what is free on a GPU.",
        show_default=False,
    ),
]
VisionOption = Annotated[
    Literal["torch", "onnx", "tensorrt"],
    typer.Option("--vision", help="What encodes pictures; onnx and tensorrt need --encoder."),
]
EncoderOption = Annotated[
    Path | None,
    typer.Option(
        "--encoder", help="Folder of this model's exported encoder (secondlook export), or of an engine."
    ),
]
ProviderOption = Annotated[
    Literal["auto", "tensorrt"],
    typer.Option("--provider", help="What computes inside ONNX Runtime; auto is the CPU, or CUDA."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-engine",
        help="Open a TensorRT engine from outside this user's cache. An engine is a program: opening it can "
        "execute anything in it, so say this only of one whose builder you know.",
    ),
]
RebuildOption = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        help="Build a TensorRT engine that does not run here again, from the ONNX folder beside it; "
        "takes minutes.",
    ),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, help="Say more on stderr; -vv for debugging.", show_default=False
    ),
]
