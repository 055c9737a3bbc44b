"""`secondlook serve --engine openai`, as a process without what models need, and what it refuses."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from engine.commands import exit_status, python
from engine.scripted_upstream import SECONDS, Upstream, running
from secondlook.edge import EdgeClient
from secondlook.edge.imaging import open_picture

WITHOUT = """
import sys

class Missing:
    # What `pip install secondlook[upstream]` does not bring.
    names = {"torch", "numpy", "transformers", "tokenizers", "huggingface_hub", "safetensors", "filelock"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def picture() -> bytes:
    from PIL import Image

    from secondlook.edge.imaging import LOCAL_JPEG, encode_jpeg

    return encode_jpeg(Image.linear_gradient("L").resize((1200, 900)).convert("RGB"), LOCAL_JPEG).jpeg


def test_it_serves_without_torch_with_a_key_from_a_file(tmp_path: Path) -> None:
    upstream = Upstream()
    (tmp_path / "key").write_text("sk-of-the-test\n")
    with running(upstream) as behind:
        options = [
            "serve",
            "--engine",
            "openai",
            "--upstream",
            behind,
            "--port",
            "0",
            "--upstream-view",
            "336",
        ]
        options += ["--upstream-api-key-file", str(tmp_path / "key"), "--upstream-extra", '{"min_p": 0.0}']
        options += ["--upstream-concurrency", "3", "--upstream-max-new-tokens", "7", "--threshold", "0.3"]
        options += ["--upstream-pointing", "Where? {question}"]
        code = f"{WITHOUT}\nfrom secondlook.engine import cli\ncli.run(cli.command_line(), {options})"
        with python(code) as process:
            assert process.stdout is not None
            told = process.stdout.readline().split()
            assert told[:3] == ["scripted", "answers", "on"], process.communicate()
            with EdgeClient(told[3].rstrip(",")) as edge:
                answer = edge.ask(picture(), "What is it?")
                card = edge.model_card
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=SECONDS)
    assert answer.looked_twice
    assert card is not None
    assert (card.crop_size, card.threshold) == (336, 0.3)
    assert {headers["authorization"] for headers in upstream.headers} == {"Bearer sk-of-the-test"}
    assert {body["min_p"] for body in upstream.asked} == {0.0}
    assert upstream.asked[-1]["max_tokens"] == 7
    assert ["Where? What is it?"] in upstream.questions()
    assert process.returncode == 0
    assert "sk-of-the-test" not in err


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--engine", "openai"], 2, "needs --upstream"),
        (["--upstream", "http://127.0.0.1:1"], 2, "--engine openai"),
        (["--engine", "openai", "--upstream", "http://127.0.0.1:1"], 1, "is away: cannot connect"),
        (["--engine", "openai", "--upstream", "127.0.0.1"], 1, "http://host:port"),
        (
            ["--engine", "openai", "--upstream", "http://h", "--dtype", "float32", "--device", "cpu"],
            2,
            "leave --dtype, --device out",
        ),
        (["--engine", "openai", "--upstream", "http://h", "--upstream-extra", "[1]"], 2, "JSON object"),
        (["--engine", "openai", "--upstream", "http://h", "--upstream-extra", "{"], 2, "no JSON"),
        (["--engine", "openai", "--upstream", "http://h", "--upstream-view", "big"], 1, "448:28"),
        (["--engine", "openai", "--upstream", "http://h", "--upstream-pointing", "Where?"], 1, "{question}"),
        (
            ["--engine", "openai", "--upstream", "http://h", "--upstream-api-key-file", "/none"],
            2,
            "cannot be",
        ),
    ],
)
def test_what_cannot_be_is_told(
    options: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("serve", "--port", "0", *options) == status
    out, err = capsys.readouterr()
    assert said in " ".join(err.replace("│", " ").split())
    assert out == ""


def test_the_engine_of_an_upstream_is_served_and_not_asked_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture())
    assert open_picture(tmp_path / "a.jpg").size.width == 1200
    assert exit_status("ask", str(tmp_path / "a.jpg"), "What is it?", "--engine", "openai") == 1
    assert "secondlook serve --upstream" in capsys.readouterr().err
