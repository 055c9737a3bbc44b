"""Commands, run in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

from secondlook.engine import cli

SECONDS = 60


def exit_status(*arguments: str, application: typer.Typer | None = None) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.run(application or cli.command_line(), list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def python(code: str) -> subprocess.Popen[str]:
    """A process that Ctrl-C interrupts, also if the tests run in the background, where shells ignore it."""
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
