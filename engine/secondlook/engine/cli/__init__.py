"""The command `secondlook`: the engine's own commands, and those that installed parts add.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from secondlook.edge.console import on_console, one_line
from secondlook.edge.errors import SecondLookError
from secondlook.edge.versions import installed_version
from secondlook.engine.cli import ask, deploy, gateway, kernels, serve, site, stream
from secondlook.engine.plugins import COMMANDS, plugins
from secondlook.engine.threads import configure_threads

__all__ = ["command_line", "main", "run"]


def main() -> NoReturn:
    """Entry point of the console script."""
    configure_threads()
    run(command_line())


def command_line() -> typer.Typer:
    """The commands. A part whose commands cannot be imported is named on stderr; all others work."""
    app = typer.Typer(
        name="secondlook", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(_secondlook)
    for command in (
        *(serve.serve, deploy.deploy, site.site, stream.stream),
        *(gateway.gateway, ask.ask, kernels.kernels),
    ):
        app.command()(command)
    for part in plugins(COMMANDS):
        try:
            register = part.load()
        except (ImportError, AttributeError) as error:
            typer.echo(f"warning: without the commands of {part.value}: {error}", err=True)
            continue
        register(app)
    return app


def run(application: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    The status is 0, 1 after an error of ours (one line on stderr), 2 for wrong usage, and 130 after Ctrl-C.
    """
    try:
        with on_console():
            application(arguments)
    except SecondLookError as error:
        typer.echo(one_line(f"error: {error}"), err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("secondlook"):
            raise
        missing = (error.name or "").partition(".")[0]
        extra = {"matplotlib": "bench", "av": "bench", "ray": "ray", "opentelemetry": "otel"}.get(
            missing, "export" if missing.startswith("onnx") else "engine"
        )
        typer.echo(f"error: {error}: this command needs pip install 'secondlook[{extra}]'", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _tell_version(asked: bool) -> None:
    if asked:
        found = installed_version("secondlook")
        typer.echo(f"secondlook {found}" if found else "secondlook, not installed")
        raise typer.Exit


def _secondlook(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Say the version and exit."),
    ] = False,
) -> None:
    """Two-look inference for vision-language models."""
