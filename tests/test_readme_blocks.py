"""The README's convention, on READMEs written here."""

from __future__ import annotations

import pytest

from readme_blocks import Block, ReadmeError, blocks, commands, localised, pictures

SAMPLE = """\
# Sample

```python
print(1)
```

<!-- not run: needs 14 GB of weights -->

```console
$ secondlook serve --model llava-hf/llava-1.5-7b-hf
ready
```

````markdown
```python
not a block of its own
```
````

1. A list:

   ```bash
   make demo
   ```
"""


def shell(text: str, language: str = "bash") -> list[tuple[str, ...]]:
    return [command.words for command in commands(Block(language, text, 1))]


def test_blocks_have_language_text_line_and_reason() -> None:
    assert blocks(SAMPLE) == [
        Block("python", "print(1)\n", 4),
        Block(
            "console",
            "$ secondlook serve --model llava-hf/llava-1.5-7b-hf\nready\n",
            10,
            "needs 14 GB of weights",
        ),
        Block("markdown", "```python\nnot a block of its own\n```\n", 15),
        Block("bash", "make demo\n", 23),
    ]


@pytest.mark.parametrize(
    ("markdown", "message"),
    [
        ("text\n```\nls\n```\n", "line 2: the block needs a language"),
        ("```python\nprint(1)\n", "line 1: the block never ends"),
        ("<!-- not run: -->\n```python\n```\n", "line 1: say why"),
        ("<!-- not run: slow -->\n\nwords\n", "line 3: a block must follow"),
        ("<!-- not run: slow -->\n", "the last 'not run' has no block"),
    ],
)
def test_a_broken_convention_is_named_with_its_line(markdown: str, message: str) -> None:
    with pytest.raises(ReadmeError, match=message):
        blocks(markdown)


def test_only_prompted_lines_of_a_console_are_commands() -> None:
    assert shell("$ make demo\nmake: done\n$ make test\n", "console") == [("make", "demo"), ("make", "test")]


def test_lines_go_on_after_a_backslash() -> None:
    (command,) = commands(Block("console", "$ secondlook-edge ask a.jpg \\\n    --json\n", 5))
    assert (command.words, command.line) == (("secondlook-edge", "ask", "a.jpg", "--json"), 5)
    with pytest.raises(ReadmeError, match="line 5: the command goes on"):
        commands(Block("bash", "make \\\n", 5))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# a comment", []),
        ("make demo  # a comment", [("make", "demo")]),
        ("cd x && make demo; ls | wc &", [("cd", "x"), ("make", "demo"), ("ls",), ("wc",)]),
        ("A=1 B='x y' make demo", [("make", "demo")]),
        (
            "secondlook ask a.jpg 'What is it?' --json > out.json",
            [("secondlook", "ask", "a.jpg", "What is it?", "--json")],
        ),
        (".venv/bin/secondlook demo 2>&1", [("secondlook", "demo")]),
        ("pip install 'secondlook[engine]'", [("pip", "install", "secondlook[engine]")]),
        ("pip install secondlook[engine]", [("pip", "install", "secondlook[engine]")]),
        (
            "secondlook-edge ask x --server http://10.0.0.7:8000",
            [("secondlook-edge", "ask", "x", "--server", "http://10.0.0.7:8000")],
        ),
    ],
)
def test_lines_are_taken_apart(text: str, expected: list[tuple[str, ...]]) -> None:
    assert shell(text) == expected


def test_options_are_words_with_dashes_and_lose_their_values() -> None:
    (command,) = commands(Block("bash", "secondlook serve --port=9 -v --threshold -1 x-y", 1))
    assert command.options == {"--port", "-v", "--threshold"}


def test_addresses_on_port_8000_stand_for_the_server() -> None:
    code = 'EdgeClient("http://server:8000/"), "http://10.0.0.7:8000", "http://x:80001", "http://x:9000"'
    assert localised(code, "http://127.0.0.1:5") == (
        'EdgeClient("http://127.0.0.1:5/"), "http://127.0.0.1:5", "http://x:80001", "http://x:9000"'
    )


def test_pictures_are_found_by_their_quoted_names() -> None:
    assert pictures("ask('street.jpg'); open(\"in/gate.png\"); x.jpg; 'note.txt'") == {
        "street.jpg",
        "in/gate.png",
    }
