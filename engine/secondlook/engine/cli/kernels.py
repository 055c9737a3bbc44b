"""The command `secondlook kernels`."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

import typer
from rich.console import Console

from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.cli.options import VerboseOption

__all__ = ["kernels"]


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
    from secondlook.kernels.library import build_library

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
