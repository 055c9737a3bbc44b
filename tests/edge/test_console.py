"""What both commands need of where they write."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable

import pytest

from secondlook.edge.cli import main as edge
from secondlook.edge.console import on_console, one_line
from secondlook.engine.cli import command_line, run
from secondlook.engine.cli import main as engine


@pytest.mark.parametrize("columns", ["0", "00", ""])
@pytest.mark.parametrize("main", [edge, engine])
def test_wrong_usage_is_readable_in_a_terminal_of_no_width(
    main: Callable[[], object],
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for wrong, message in (
        (("ask", "a.jpg", "what?", "--colour"), "No such option"),
        (("ask", "a.jpg", "what?", "--threshold", "x"), "Invalid value for .--threshold"),
        (("ask",), "Missing argument"),
        (("dance",), "No such command"),
    ):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys, "argv", ["secondlook", *wrong])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert re.search(message, capsys.readouterr().err)


def test_the_width_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    with on_console():
        assert "COLUMNS" not in os.environ
    assert os.environ["COLUMNS"] == "0"


def test_an_error_is_one_line_whatever_is_named_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line("a\nb\u2028c  \x1b[31m\0 ü\ud83d") == "a b c \\x1b[31m\\x00 ü\\ud83d"
    with pytest.raises(SystemExit) as ended:
        run(command_line(), ["verify", "no\nfolder\x1b"])
    assert ended.value.code == 1
    assert re.fullmatch(r"error: no folder\\x1b is no exported encoder.*\n", capsys.readouterr().err)
