"""The command `secondlook build`, and what `inspect` says of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import VerboseOption

if TYPE_CHECKING:
    import torch

    from secondlook.engine.encoders.tensorrt import TensorRtVisionEncoder

__all__ = ["build", "open_or_rebuild", "register", "tell_engine"]


def register(app: typer.Typer) -> None:
    """Add the command to `secondlook`."""
    app.command("build")(build)


def build(
    folder: Annotated[
        Path, typer.Argument(help="An exported encoder, see: secondlook export.", metavar="ONNX_FOLDER")
    ],
    output: Annotated[
        Path | None, typer.Option(help="A folder for a copy of the engine, to take elsewhere.")
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch sizes that the engine takes; again for another profile. [default: 1:2:8]",
            metavar="MIN:OPT:MAX",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cuda or cuda:N.")] = "cuda",
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="MiB that a layer may use beside its tensors; all by default.")
    ] = None,
    hardware_compatibility: Annotated[
        Literal["none", "ampere_plus", "same_compute_capability"],
        typer.Option(help="Other GPUs that it shall run on, too; such an engine can be slower."),
    ] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="For later TensorRT versions and tensorrt_lean, too; such an engine can be slower, and "
            "opening it executes code of the host that it carries.",
        ),
    ] = False,
    detailed: Annotated[
        bool,
        typer.Option("--detailed", help="Keep the layers' details for inspect; the engine then tells them."),
    ] = False,
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32", help="Faster float32 products of ten bits; they do not pass the gate of float32."
        ),
    ] = False,
    cache_gb: Annotated[float, typer.Option(help="GiB that all engines in the cache may have.")] = 16.0,
    verbose: VerboseOption = 0,
) -> None:
    """Build a TensorRT engine of an exported encoder for this GPU. It is kept in a cache, and found there."""
    configure_logging(verbose)
    from secondlook.engine.encoders.engine_manifest import BuildOptions
    from secondlook.engine.encoders.engine_store import cache_folder
    from secondlook.engine.encoders.profiles import parse_profiles
    from secondlook.engine.encoders.tensorrt_api import cuda_device
    from secondlook.export.tensorrt.cache import EngineCache
    from secondlook.export.tensorrt.engines import DEFAULT_PROFILES, EngineRequest, make_engine
    from secondlook.export.tensorrt.errors import EngineBuildError

    options = BuildOptions(workspace_mb, hardware_compatibility, version_compatible, detailed, tf32)
    profiles = parse_profiles(batch) if batch else DEFAULT_PROFILES
    if not 0 < cache_gb < 1e9:
        raise EngineBuildError(f"the cache of engines must have more than 0 GiB, not {cache_gb}")
    cache = EngineCache(cache_folder(), int(cache_gb * 2**30))
    request = EngineRequest(folder, profiles, options, output)
    with Console(stderr=True).status("building; this takes minutes ..."):
        found = make_engine(request, cuda_device(device), cache)
    typer.echo(f"the engine is in {output or found}; compare it with torch: {_verify(folder, output)}")


def tell_engine(folder: Path, device: str, trusted: bool) -> None:
    """Print an engine's manifest; then, which opens it, its layers' precision and what became of attention.

    Raises:
        SecondLookError: the engine cannot be opened; the manifest was printed all the same.
    """
    from secondlook.engine.encoders.tensorrt_api import cuda_device
    from secondlook.export.tensorrt.inspect import inspect_engine, layers_text, manifest_text

    typer.echo(manifest_text(folder))
    typer.echo(layers_text(inspect_engine(folder, cuda_device(device), trusted=trusted)))


def open_or_rebuild(folder: Path, device: torch.device, *, trusted: bool = False) -> TensorRtVisionEncoder:
    """What --rebuild opens engines with; imported when it is called."""
    from secondlook.export.tensorrt.engines import open_or_rebuild

    return open_or_rebuild(folder, device, trusted=trusted, rebuild=True)


def _verify(folder: Path, output: Path | None) -> str:
    found = f"{output} --trust-engine" if output else str(folder)
    return f"secondlook verify {found} --runtime tensorrt"
