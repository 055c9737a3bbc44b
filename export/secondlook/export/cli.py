"""The commands `export`, `verify`, `verify-bits`, `inspect` and `build`. Heavy imports wait until needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import (
    DeviceOption,
    DTypeOption,
    ModelOption,
    PrecisionOption,
    ProviderOption,
    QuantiseOption,
    RebuildOption,
    RevisionOption,
    TrustOption,
    VerboseOption,
)
from secondlook.engine.models.rounding import Quantise
from secondlook.engine.opening import draws_bars, loading_status
from secondlook.engine.plugins import GATE_PICTURES, plugins

if TYPE_CHECKING:
    from secondlook.engine.models.base import VisionLanguageModel
    from secondlook.export.gate import GatePicture

__all__ = ["register"]

_LEAST_QUESTIONS = 200

FolderArgument = Annotated[Path, typer.Argument(help="Of an exported encoder, or of a TensorRT plan.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `secondlook`."""
    for command in (export, verify, verify_bits, inspect, build):
        app.command()(command)


def export(
    output: Annotated[Path, typer.Option(help="The new folder.")],
    model: ModelOption = "demo",
    revision: RevisionOption = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "int8"],
        typer.Option(help="That the graph computes in."),
    ] = "float32",
    opset: Annotated[int, typer.Option(help="Of the graph's operators, 18 to 22.")] = 18,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an exported encoder.")] = False,
    questions: Annotated[
        int, typer.Option(min=_LEAST_QUESTIONS, help="Asked with both encoders before it is believed.")
    ] = _LEAST_QUESTIONS,
    verbose: VerboseOption = 0,
) -> None:
    """Write a model's vision encoder and projector as ONNX, if they are what torch computes."""
    configure_logging(verbose)
    from secondlook.export.exporting import ExportSettings, export_encoder
    from secondlook.export.folder import check_output
    from secondlook.export.gate import GateSettings
    from secondlook.export.inspecting import parity_text

    settings = ExportSettings(dtype, opset, overwrite, GateSettings(questions=questions))
    check_output(output, overwrite=overwrite)
    asked, loaded = _asked(), _load(model, revision, "cpu")
    with Console(stderr=True).status("exporting ...") as status:
        manifest = export_encoder(
            loaded, output, settings, asked, lambda stage: status.update(f"{stage} ...")
        )
    typer.echo(f"passed: {parity_text(manifest.parity)}")
    typer.echo(f"{output} holds the encoder of {model}, in {dtype}")


def verify(
    folder: FolderArgument,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Compare with this one; by default the one it was exported from."),
    ] = None,
    runtime: Annotated[
        Literal["onnx", "torch", "openvino", "tensorrt"], typer.Option(help="What runs the encoder.")
    ] = "onnx",
    device: DeviceOption = "auto",
    provider: ProviderOption = "auto",
    trust_plan: TrustOption = False,
    rebuild: RebuildOption = False,
    precision: PrecisionOption = "auto",
    questions: Annotated[int, typer.Option(min=1, help="Asked with both encoders.")] = _LEAST_QUESTIONS,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Pass an exported encoder through the gate again, on any runtime. Nothing is written."""
    configure_logging(verbose)
    from secondlook.engine.encoders import EncoderChoice
    from secondlook.export.exporting import exported_manifest, verify_encoder
    from secondlook.export.gate import GateSettings
    from secondlook.export.inspecting import parity_text

    named = None if runtime == "torch" else folder
    choice = EncoderChoice(runtime, named, provider, trust_plan, rebuild, precision)
    revision = None
    if model is None:
        exported = exported_manifest(folder, runtime)
        model, revision = exported.model, exported.revision
    asked, loaded = _asked(), _load(model, revision, device)
    with Console(stderr=True).status("comparing it with torch ..."):
        parity = verify_encoder(loaded, choice, folder, GateSettings(questions=questions), asked)
    typer.echo(json.dumps(asdict(parity)) if as_json else f"passed: {parity_text(parity)}")


def verify_bits(
    model: ModelOption = "demo",
    revision: RevisionOption = None,
    quantise: QuantiseOption = None,
    dtype: DTypeOption = "float32",
    device: DeviceOption = "auto",
    reference: Annotated[
        str | None,
        typer.Option(
            help="The full model that a quantised checkpoint was made from; by default the model itself."
        ),
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="Asked with both models.")] = _LEAST_QUESTIONS,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Compare weights of few bits with float32: answers, doubts, regions. Fails beyond the limits."""
    configure_logging(verbose)
    from secondlook.export.bits import bits_of, parity_text, pass_bits
    from secondlook.export.gate import GateSettings

    if reference is None and quantise is None:
        raise typer.BadParameter(
            "say --quantise, or what to compare a quantised checkpoint with: --reference"
        )
    asked, candidate = _asked(), _load(model, revision, device, dtype, quantise)
    bits_of(candidate)  # else it is refused after the long loading of another
    full = _load(reference or model, revision if reference is None else None, device)
    with Console(stderr=True).status("comparing it with float32 ..."):
        found = pass_bits(full, candidate, asked, GateSettings(questions=questions))
    typer.echo(json.dumps(asdict(found)) if as_json else f"passed: {parity_text(found)}")


def inspect(
    folder: FolderArgument,
    device: Annotated[str, typer.Option(help="For a plan: the GPU that opens it.")] = "cuda",
    trust_plan: TrustOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Say what an exported encoder or a plan is, in which precision, and if attention was fused."""
    configure_logging(verbose)
    from secondlook.engine.encoders.plan_manifest import PLAN_MANIFEST_FILE
    from secondlook.engine.encoders.tensorrt_api import cuda_device
    from secondlook.export.inspecting import inspect_encoder, inspect_plan, layers_text, plan_text

    if not (folder / PLAN_MANIFEST_FILE).is_file():
        typer.echo(inspect_encoder(folder))
        return
    typer.echo(plan_text(folder))  # told all the same if the plan cannot be opened
    typer.echo(layers_text(inspect_plan(folder, cuda_device(device), trusted=trust_plan)))


def build(
    folder: Annotated[
        Path, typer.Argument(help="An exported encoder, see: secondlook export.", metavar="ONNX_FOLDER")
    ],
    output: Annotated[
        Path | None, typer.Option(help="A folder for a copy of the plan, to take elsewhere.")
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch sizes that the plan takes; again for another profile. [default: 1:2:8]",
            metavar="MIN:OPT:MAX",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cuda:N.")] = "cuda",
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="MiB that a layer may use beside its tensors; all by default.")
    ] = None,
    hardware_compatibility: Annotated[
        Literal["none", "ampere_plus", "same_compute_capability"],
        typer.Option(help="Other GPUs that it shall run on, too; such a plan can be slower."),
    ] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="For later TensorRT versions and tensorrt_lean, too; such a plan can be slower, and "
            "opening it executes code of the host that it carries.",
        ),
    ] = False,
    detailed: Annotated[
        bool,
        typer.Option("--detailed", help="Keep the layers' details for inspect; the plan then tells them."),
    ] = False,
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32", help="Faster float32 products of ten bits; they do not pass the gate of float32."
        ),
    ] = False,
    cache_gb: Annotated[float, typer.Option(help="GiB that all plans in the cache may have.")] = 16.0,
    verbose: VerboseOption = 0,
) -> None:
    """Build a TensorRT plan of an exported encoder for this GPU. It is kept in a cache, and found there."""
    configure_logging(verbose)
    from secondlook.engine.cache_folder import cache_folder
    from secondlook.engine.encoders.plan_manifest import BuildOptions
    from secondlook.engine.encoders.profiles import parse_profiles
    from secondlook.engine.encoders.tensorrt_api import cuda_device
    from secondlook.export.errors import PlanBuildError
    from secondlook.export.plans import DEFAULT_PROFILES, PlanCache, PlanRequest, make_plan

    options = BuildOptions(workspace_mb, hardware_compatibility, version_compatible, detailed, tf32)
    profiles = parse_profiles(batch) if batch else DEFAULT_PROFILES
    if not 0 < cache_gb < 1e9:
        raise PlanBuildError(f"the cache of plans must have more than 0 GiB, not {cache_gb}")
    cache = PlanCache(cache_folder("plans"), int(cache_gb * 2**30))
    request = PlanRequest(folder, profiles, options, output)
    with Console(stderr=True).status("building; this takes minutes ..."):
        found = make_plan(request, cuda_device(device), cache)
    named = f"{output} --trust-plan" if output else str(folder)
    typer.echo(
        f"the plan is in {output or found}; compare it with torch: "
        f"secondlook verify {named} --runtime tensorrt"
    )


def _asked() -> Iterator[GatePicture]:
    """The gate's pictures and questions, which another part draws.

    Raises:
        ExportError: none is installed.
    """
    from secondlook.export.errors import ExportError

    found = plugins(GATE_PICTURES)
    if not found:
        raise ExportError(
            f"the gate has no pictures to ask about: no entry point {GATE_PICTURES} is installed, of which "
            "secondlook.benchmarks is one; install secondlook, in a checkout with pip install -e ."
        )
    pictures: Iterator[GatePicture] = found[0].load()()
    return pictures


def _load(
    model: str,
    revision: str | None,
    device: str,
    dtype: str = "float32",
    quantise: Quantise | None = None,
) -> VisionLanguageModel:
    from secondlook.engine.models.checkpoint import load_model

    with loading_status(model):
        return load_model(
            model,
            revision=revision,
            dtype=dtype,  # type: ignore[arg-type]  # it refuses what is no dtype
            device=device,
            progress=draws_bars(model),
            quantise=quantise,
        )
