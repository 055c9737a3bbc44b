"""The commands `secondlook export`, `verify` and `inspect`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from secondlook.engine.cli import configure_logging
from secondlook.engine.cli.options import (
    DeviceOption,
    ModelOption,
    ProviderOption,
    RebuildOption,
    TrustOption,
    VerboseOption,
)
from secondlook.engine.opening import check_rebuild, loading_status
from secondlook.export.tensorrt.cli import tell_engine

if TYPE_CHECKING:
    from secondlook.engine.encoders.manifest import Parity
    from secondlook.engine.models.llava import LlavaAdapter
    from secondlook.export.answers import GatePicture

__all__ = ["register"]

_LEAST_QUESTIONS = 200

FolderArgument = Annotated[Path, typer.Argument(help="Of an exported encoder, or of a TensorRT engine.")]


def register(app: typer.Typer, asked: Callable[[], Iterator[GatePicture]]) -> None:
    """Add the commands to `secondlook`.

    Args:
        asked: gives the pictures and questions of the gate, without end.
    """

    @app.command()
    def export(
        output: Annotated[Path, typer.Option(help="The new folder.")],
        model: ModelOption = "demo",
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

        settings = ExportSettings(dtype, opset, overwrite, GateSettings(questions=questions))
        check_output(output, overwrite=overwrite)
        loaded = _load(model, "cpu")
        with Console(stderr=True).status("exporting ...") as status:
            manifest = export_encoder(
                loaded, output, settings, asked(), lambda stage: status.update(f"{stage} ...")
            )
        typer.echo(_told(manifest.parity))
        typer.echo(f"{output} holds the encoder of {model}, in {dtype}")

    @app.command()
    def verify(
        folder: FolderArgument,
        model: Annotated[
            str | None,
            typer.Option("--model", help="Compare with this one; by default the one it was exported from."),
        ] = None,
        runtime: Annotated[
            Literal["onnx", "torch", "tensorrt"], typer.Option(help="What runs the encoder.")
        ] = "onnx",
        device: DeviceOption = "auto",
        provider: ProviderOption = "auto",
        trust_engine: TrustOption = False,
        rebuild: RebuildOption = False,
        questions: Annotated[int, typer.Option(min=1, help="Asked with both encoders.")] = _LEAST_QUESTIONS,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
        verbose: VerboseOption = 0,
    ) -> None:
        """Pass an exported encoder through the gate again, on any runtime. Nothing is written."""
        configure_logging(verbose)
        from secondlook.engine.encoders.choice import EncoderChoice
        from secondlook.export.gate import GateSettings
        from secondlook.export.tensorrt.engines import open_or_rebuild
        from secondlook.export.verifying import exported_manifest, verify_encoder

        choice = EncoderChoice(
            runtime, None if runtime == "torch" else folder, provider, trust_engine=trust_engine
        )
        check_rebuild(rebuild, runtime)
        loaded = _load(model or exported_manifest(folder, runtime).model, device)
        with Console(stderr=True).status("comparing it with torch ..."):
            parity = verify_encoder(
                loaded,
                choice,
                folder,
                GateSettings(questions=questions),
                asked(),
                partial(open_or_rebuild, rebuild=rebuild),
            )
        typer.echo(json.dumps(asdict(parity)) if as_json else _told(parity))

    @app.command()
    def inspect(
        folder: FolderArgument,
        device: Annotated[str, typer.Option(help="For an engine: the GPU that opens it.")] = "cuda",
        trust_engine: TrustOption = False,
        verbose: VerboseOption = 0,
    ) -> None:
        """Say what an exported encoder or an engine is, in which precision, and if attention was fused."""
        configure_logging(verbose)
        from secondlook.engine.encoders.engine_manifest import ENGINE_MANIFEST_FILE

        if (folder / ENGINE_MANIFEST_FILE).is_file():
            tell_engine(folder, device, trust_engine)
            return
        from secondlook.export.inspecting import inspect_encoder

        typer.echo(inspect_encoder(folder))


def _load(model: str, device: str) -> LlavaAdapter:
    from secondlook.engine.models.checkpoint import load_model
    from secondlook.engine.opening import draws_bars

    with loading_status(model):
        return load_model(model, dtype="float32", device=device, progress=draws_bars(model))


def _told(parity: Parity) -> str:
    return (
        f"passed: relative error {parity.relative_error:.2e} on {parity.pictures} pictures (at most "
        f"{parity.tolerance:.0e}); {parity.questions} questions, {parity.same_answers} of {parity.answers} "
        f"answers the same and {parity.within_rounding} within rounding, their uncertainty to "
        f"{parity.entropy_difference:.1e} nats; {parity.same_regions} of {parity.regions} regions the same"
    )
