"""The documents' code: the README's Python runs against a server on the embedded model, and commands exist.

`readme_blocks` has the convention that the README keeps to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.serving_harness import listening
from readme_blocks import PYTHON, SHELL, Block, blocks
from readme_checks import check_commands, run_python
from repository import ROOT
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app


@pytest.fixture(scope="module")
def readme() -> list[Block]:
    return blocks((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.fixture
def address() -> Iterator[str]:
    with listening(create_app(Engine(load_model("demo")))) as url:
        yield url


def test_the_readme_has_code_of_both_kinds(readme: list[Block]) -> None:
    languages = {block.language for block in readme}
    assert languages & PYTHON
    assert languages & SHELL


def test_the_python_blocks_run(
    readme: list[Block], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(readme, address, tmp_path)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_exist(name: str) -> None:
    check_commands(blocks((ROOT / name).read_text(encoding="utf-8")))
