"""What is made sure of in a README, on READMEs written here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.fake_engine import FakeEngine
from engine.serving_harness import listening
from readme_blocks import Block, ReadmeError, blocks
from readme_checks import check_commands, run_python
from secondlook.engine.serve.app import create_app

NOWHERE = "http://127.0.0.1:1"

SAMPLE = """\
# Sample

```python
from secondlook.edge import EdgeClient

client = EdgeClient("http://server:8000")
```

Blocks go on from one another:

```python
with client:
    answer = client.ask("street.jpg", "sure")
with open("told.txt", "w", encoding="utf-8") as told:
    told.write(answer.text)
```

<!-- not run: there is no such module -->
```python
import missing_module
```
"""


@pytest.fixture
def address() -> Iterator[str]:
    with listening(create_app(FakeEngine())) as url:
        yield url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(text: str, not_run: str | None = None) -> None:
    check_commands([Block("bash", text, 7, not_run)])


def test_python_blocks_ask_a_real_server_about_a_real_picture(address: str, folder: Path) -> None:
    run_python(blocks(SAMPLE), address, folder)
    assert (folder / "told.txt").read_text(encoding="utf-8") == "first to sure"


def test_what_goes_wrong_shows_the_line_of_the_readme(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_python([Block("python", "a = 1\nb = a / 0\n", 40)], NOWHERE, folder)
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == ("README.md", 41)


def test_a_block_that_is_not_run_must_still_be_python(folder: Path) -> None:
    with pytest.raises(SyntaxError):
        run_python([Block("python", "import\n", 1, "why not")], NOWHERE, folder)


@pytest.mark.parametrize(
    "text",
    [
        "make demo PYTHON=python3.12",
        "git clone https://example.org/secondlook && cd secondlook",
        "python3 -m venv .venv && source .venv/bin/activate",
        "pip install -c constraints.txt -e '.[engine,bench]'",
        "python -m pip install secondlook",
        "secondlook-edge ask street.jpg 'What is it?' --server http://10.0.0.7:8000 --json",
        "secondlook serve --host 0.0.0.0 --model llava-hf/llava-1.5-7b-hf",
        "python -m secondlook.edge ask --save-crop crop.jpg",
    ],
)
def test_commands_that_exist_pass(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("make dinner", "line 7: make has no target dinner"),
        ("pip install 'secondlook[kitchen]'", "line 7: there is no extra kitchen"),
        ("pip install -c nothing.txt .", "line 7: there is no nothing.txt"),
        ("pip install torch", "'pip install torch' cannot be checked"),
        ("python -m http.server", "python -m http.server cannot be checked"),
        ("secondlook-edge tell", r"(?s)line 7: secondlook-edge tell: .*No such command"),
        ("secondlook serve --colour red", r"(?s)line 7: secondlook serve --colour red: .*No such option"),
        ("true\nsecondlook-edge ask --fast", "line 7: true cannot be checked"),
    ],
)
def test_commands_that_do_not_exist_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(ReadmeError, match=message):
        check(text)


def test_modules_must_have_the_options_too() -> None:
    with pytest.raises(ReadmeError, match="has no option --nonsense"):
        check("python -m training.publish --nonsense 3")


def test_in_a_block_that_is_not_run_only_our_own_commands_are_checked() -> None:
    check("curl http://server:8000/healthz", not_run="needs a server")
    with pytest.raises(ReadmeError, match="No such option"):
        check("curl x | secondlook serve --nonsense", not_run="needs a server")


def test_blocks_in_other_languages_are_for_reading(folder: Path) -> None:
    found = [Block("text", "make dinner\n", 1), Block("json", "{}\n", 4)]
    check_commands(found)
    run_python(found, NOWHERE, folder)
