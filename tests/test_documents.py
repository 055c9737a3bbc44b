"""The documents say what is so: their Python runs, their commands and links exist, and they stay short.

`documents` has the convention that they keep to.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from PIL import Image

from documents import PAGES, Block, anchors, blocks, broken, links, wrong
from edge.snapshot_camera import snapshot_camera
from engine.balancing import balanced
from engine.gatewaying import gateway, sight
from engine.serving_harness import listening
from repository import ROOT
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings

RESULTS = ROOT / "benchmarks/results"
CARDS = [ROOT / "engine/secondlook/engine" / name / "README.md" for name in ("checkpoint", "checkpoint_qwen")]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Hosts(ExitStack):
    """The servers that documents name, by the beginning of their hosts, each from when it is first named."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: dict[str, str] = {}

    def url(self, host: str) -> str:
        """Where it is; a host without a meaning of its own is a server like any."""
        others = {"keys": self._with_keys, "gateway": self._gateway, "several": self._several}
        host = host if host in others else "server"
        if host not in self._begun:
            self._begun[host] = self.enter_context(others.get(host, self._server)())
        return self._begun[host]

    def _server(self, settings: ServerSettings | None = None) -> AbstractContextManager[str]:
        return listening(create_app(Engine(load_model("demo")), settings))

    def _with_keys(self) -> AbstractContextManager[str]:
        """Those of the cameras, which may look twice a minute, and of the lab."""
        file = Path(self.enter_context(TemporaryDirectory())) / "keys.txt"
        lines = [
            f"{name}:{sha256(f'key-of-{name}'.encode()).hexdigest()}{limits}\n"
            for name, limits in (("cameras", ":looks=2"), ("lab", ""))
        ]
        file.write_text("".join(lines), encoding="utf-8")
        return self._server(ServerSettings(api_key_file=file))

    @contextmanager
    def _gateway(self) -> Iterator[str]:
        """Before a camera that has another picture at each request."""
        with (
            snapshot_camera(sight) as camera,
            gateway(f"http://{camera.address}", self.url("server")) as client,
        ):
            yield str(client.base_url)

    @contextmanager
    def _several(self) -> Iterator[str]:
        """Two, of which one is gone after the second question's first look."""
        replicas = [self.enter_context(self._server()).removeprefix("http://") for _ in range(2)]
        with balanced(*replicas, last=4) as (url, _):
            yield url


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts() as begun:
        yield begun


WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def paste(block: Block, page: Path, hosts: Hosts, names: dict[str, Any]) -> None:
    """Run a block of Python, with what it names in the folder."""
    for index, picture in enumerate(re.findall(r'"([\w-]+\.(?:jpg|png))"', block.text)):
        with Image.open(io.BytesIO(SignsPicture("test", 1, index).read())) as drawn:
            drawn.save(picture)
    for result in re.findall(r'"([\w-]+\.(?:json|jsonl\.gz))"', block.text):
        shutil.copy(RESULTS / result, result)
    text = re.sub(r"http://([\w-]+)[\w.-]*:8000\b", lambda named: hosts.url(named[1]), block.text)
    code = compile(
        "\n" * (block.line - 1) + text, str(page), "exec"
    )  # an error shows the document's own line
    if block.run:
        exec(code, names)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_python_runs(page: Path, hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "python":
            paste(block, page, hosts, names)


def test_the_readmes_example_of_openais_client_works_as_pasted(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By itself, without what stands before it."""
    monkeypatch.chdir(tmp_path)
    readme = ROOT / "README.md"
    [example] = [block for block in blocks(readme) if "from openai import" in block.text]
    assert example.run
    paste(example, readme, hosts, {"__name__": "__main__"})
    assert re.fullmatch(r"\w+ (sure|no_detail_to_gain|took_second|kept_first)\n", capsys.readouterr().out)


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
