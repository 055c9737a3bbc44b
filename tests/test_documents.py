"""The documents say what is so: their Python runs, their commands and links exist, and they stay short.

`documents` has the convention that they keep to.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from documents import PAGES, anchors, blocks, broken, links, wrong
from engine.serving_harness import listening
from repository import ROOT
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app

CARDS = [ROOT / "engine/secondlook/engine" / name / "README.md" for name in ("checkpoint", "checkpoint_qwen")]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening(create_app(Engine(load_model("demo")))) as url:
        yield url


WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_runs(page: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language != "python":
            continue
        for index, picture in enumerate(re.findall(r'"([\w-]+\.(?:jpg|png))"', block.text)):
            with Image.open(io.BytesIO(SignsPicture("test", 1, index).read())) as drawn:
                drawn.save(tmp_path / picture)
        text = "\n" * (block.line - 1) + re.sub(r"http://[\w.-]+:8000\b", address, block.text)
        code = compile(text, str(page), "exec")  # an error shows the document's own line
        if block.run:
            exec(code, names)


def test_the_readme_and_the_edges_page_have_python() -> None:
    assert {name(page) for page in WITH_PYTHON} >= {"README.md", "docs/edge.md"}


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=name)
def test_commands_exist(page: Path) -> None:
    found = broken(page)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("make dinner", "no target"),
        ("pip install .[kitchen]", "no extra"),
        ("pip install ./kitchen", "cannot be installed"),
        ("secondlook-edge tell", "No such command"),
        ("secondlook serve --colour red", "No such option"),
        ("secondlook eval signs --colour red", "No such option"),
        ("python -m training.publish --colour red", "no option"),
        ("python kitchen.py", "there is no"),
        ("rm -rf x", "cannot be checked"),
    ],
)
def test_what_does_not_exist_is_found(command: str, message: str) -> None:
    assert message in (wrong(tuple(command.split())) or "")


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_the_readme_fits_eight_kilobytes_and_the_changelog_twenty_lines() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8192
    assert len((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()) <= 20
