"""What both commands need of where they write."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from secondlook.edge.cli import main as edge
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
