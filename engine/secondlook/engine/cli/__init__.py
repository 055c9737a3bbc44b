"""The engine's commands: `serve`, `ask` and `kernels`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from secondlook.edge.errors import SecondLookError, SettingsError
from secondlook.edge.wire import AnswerReply
from secondlook.engine.cli.options import (
    CacheOption,
    DeviceOption,
    DTypeOption,
    EncoderOption,
    ModelOption,
    PolicyOption,
    ProviderOption,
    RebuildOption,
    ThresholdOption,
    TrustOption,
    VerboseOption,
    VisionOption,
)
from secondlook.engine.opening import EngineOptions, check_rebuild, load_engine, loading_status

if TYPE_CHECKING:
    from secondlook.engine.encoders.choice import OpenEngine
    from secondlook.engine.method.policy_file import PolicyFile
    from secondlook.engine.serve.service import TwoLookService

__all__ = ["app", "configure_logging", "run"]

app = typer.Typer(
    name="secondlook",
    help="Two-look inference for vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run(
    application: typer.Typer,
    arguments: list[str] | None = None,
    open_or_rebuild: OpenEngine | None = None,
) -> NoReturn:
    """Run a command line and exit.

    Args:
        open_or_rebuild: opens a TensorRT engine for --rebuild, built anew if need be.

    The status is 0, 1 after an error of ours (one line on stderr), 2 for wrong usage, and 130 after Ctrl-C.
    """
    try:
        application(arguments, obj=open_or_rebuild)
    except SecondLookError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("secondlook"):
            raise
        missing = (error.name or "").partition(".")[0]
        extra = {"matplotlib": "bench"}.get(missing, "export" if missing.startswith("onnx") else "engine")
        typer.echo(f"error: {error}: this command needs pip install 'secondlook[{extra}]'", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def configure_logging(verbose: int) -> None:
    """Log warnings to stderr, information too with one -v, everything with two. For commands, once each."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    handler = RichHandler(console=Console(stderr=True), show_path=verbose > 1)
    logging.basicConfig(
        level=level, format="%(name)s: %(message)s", datefmt="[%X]", handlers=[handler], force=True
    )
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *_arguments, **_more: str(message)  # not where it was raised
    # That operators are being built is always said: it happens once, and takes a while.
    logging.getLogger("secondlook.kernels").setLevel(min(level, logging.INFO))


def chosen_policy(policy: Path | None, threshold: float | None) -> PolicyFile | None:
    """What the file of `--policy` holds; to be read before the long loading of a model.

    Raises:
        PolicyFileError: it cannot be read.
        typer.BadParameter: there is a threshold besides.
    """
    if policy is None:
        return None
    if threshold is not None:
        raise typer.BadParameter(
            "a policy file has a threshold of its own: leave --threshold or --policy out"
        )
    from secondlook.engine.method.policy_file import read_policy

    return read_policy(policy)


def _rebuilder(context: typer.Context, rebuild: bool, vision: str) -> OpenEngine | None:
    """What opens engines for a command: that which `run` was given, with --rebuild."""
    check_rebuild(rebuild, vision)
    if rebuild and context.obj is None:
        raise SettingsError(
            "--rebuild needs secondlook.export, which builds engines; start secondlook itself"
        )
    return context.obj if rebuild else None


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    model: ModelOption = "demo",
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    retransmission_rate: Annotated[
        float | None,
        typer.Option(help="Move the threshold so that this share of the questions is looked at twice."),
    ] = None,
    bytes_per_second: Annotated[
        float | None,
        typer.Option(help="Move the threshold so that local images have at most so many bytes a second."),
    ] = None,
    kv_cache_gb: CacheOption = None,
    vision: VisionOption = "torch",
    encoder: EncoderOption = None,
    provider: ProviderOption = "auto",
    trust_engine: TrustOption = False,
    rebuild: RebuildOption = False,
    max_pending: Annotated[
        int, typer.Option(min=1, help="Sessions that may wait for their local image.")
    ] = 1024,
    session_ttl: Annotated[float, typer.Option(help="Seconds that a session waits.")] = 60.0,
    queue_size: Annotated[int, typer.Option(min=1, help="Questions that may wait for the model.")] = 32,
    max_body_mb: Annotated[int, typer.Option(min=1, help="MiB that a request may have.")] = 8,
    verbose: VerboseOption = 0,
) -> None:
    """Answer edges' questions over HTTP until Ctrl-C."""
    configure_logging(verbose)
    calibrated = chosen_policy(policy, threshold)
    from secondlook.engine.encoders.choice import EncoderChoice
    from secondlook.engine.method.budget import BudgetSettings
    from secondlook.engine.serve import app as serving
    from secondlook.engine.serve.settings import ServerSettings, SessionLimits

    budget = None
    if (retransmission_rate, bytes_per_second) != (None, None):
        budget = BudgetSettings(retransmission_rate, bytes_per_second)
    options = EngineOptions(
        model,
        dtype,
        device,
        threshold,
        calibrated,
        budget,
        kv_cache_gb,
        EncoderChoice(vision, encoder, provider, trust_engine),
        _rebuilder(context, rebuild, vision),
    )
    sessions = SessionLimits(max_waiting=max_pending, seconds=session_ttl)
    settings = ServerSettings(queue_size=queue_size, max_body_bytes=max_body_mb * 2**20, sessions=sessions)
    with serving.listen(host, port) as listener:
        url = serving.address_url(listener)
        # Nothing else is printed before the spinner has stopped.
        with loading_status(model) as stop_spinner:

            def on_ready(service: TwoLookService) -> None:
                stop_spinner()
                typer.echo(f"{service.card.name} answers on {url} (Ctrl-C ends it)")

            try:
                serving.serve(
                    lambda: load_engine(options),
                    settings,
                    listener,
                    on_ready,
                )
            except KeyboardInterrupt:
                # The usual way to end a server; by now what was in progress is finished.
                stop_spinner()
                typer.echo("stopped", err=True)


@app.command()
def ask(
    context: typer.Context,
    picture: Annotated[Path, typer.Argument(help="The picture's file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: ModelOption = "demo",
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
    threshold: ThresholdOption = None,
    policy: PolicyOption = None,
    kv_cache_gb: CacheOption = None,
    vision: VisionOption = "torch",
    encoder: EncoderOption = None,
    provider: ProviderOption = "auto",
    trust_engine: TrustOption = False,
    rebuild: RebuildOption = False,
    second_look: Annotated[
        Literal["auto", "always", "never"], typer.Option("--second-look", help="Whether to look twice.")
    ] = "auto",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask about one picture, with edge and server in this process.

    What the model sees goes through JPEG all the same.
    """
    configure_logging(verbose)
    from secondlook.edge.imaging import open_picture
    from secondlook.edge.wire import AnswerOptions
    from secondlook.engine.encoders.choice import EncoderChoice
    from secondlook.engine.local import ask_locally

    options = EngineOptions(
        model,
        dtype,
        device,
        threshold,
        chosen_policy(policy, threshold),
        None,
        kv_cache_gb,
        EncoderChoice(vision, encoder, provider, trust_engine),
        _rebuilder(context, rebuild, vision),
    )
    opened = open_picture(picture)
    with loading_status(model):
        engine = load_engine(options)
    asking = AnswerOptions(second_look=second_look, max_new_tokens=max_new_tokens)
    with Console(stderr=True).status("looking ..."):
        asked = ask_locally(engine, opened, question, asking)
    if as_json:
        typer.echo(json.dumps(asked.to_dict()))
    else:
        typer.echo(_told(asked.reply))


@app.command()
def kernels(
    build: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option("--build", help="Build this library now; cuda for every architecture, GPU or not."),
    ] = None,
    verbose: VerboseOption = 0,
) -> None:
    """Say which implementation of the operators serves on each device, and why."""
    configure_logging(verbose)
    from secondlook.kernels import KernelError, status
    from secondlook.kernels.build import BACKENDS, build_parameters
    from secondlook.kernels.library import build as build_library

    try:
        if build is not None:
            with Console(stderr=True).status(f"building the {build} library ..."):
                path = build_library(build_parameters(build))
            typer.echo(f"built {path}")
            return
        for backend in BACKENDS:
            spinner = Console(stderr=True).status(f"looking for the {backend} library ...")
            with spinner, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the line below says it
                found = status(backend)
            typer.echo(f"{backend:5} {found.source:10} {found.path or '-'}  ({found.reason})")
    except KernelError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _told(reply: AnswerReply) -> str:
    lines = [
        reply.answer.text,
        "",
        f"first look   {reply.first.text!r}, uncertainty {reply.first.uncertainty:.3f}",
    ]
    if reply.second is not None and reply.region is not None:
        box = reply.region
        lines += [
            f"region       ({box.left}, {box.top}) to ({box.right}, {box.bottom})",
            f"second look  {reply.second.text!r}, uncertainty {reply.second.uncertainty:.3f}",
        ]
    return "\n".join([*lines, f"decision     {reply.decision.replace('_', ' ')}"])
