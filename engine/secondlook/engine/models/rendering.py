"""Chat templates are programs of strangers: they are run once, in a process of their own, within bounds.

`frame` runs a template on a few messages and finds what it writes before and behind a question. From then on
a prompt is text put together, and no question runs a stranger's program.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from secondlook.engine.errors import UnsupportedModelError

__all__ = ["Frame", "frame"]

IMAGES: Final = (1, 2)
_PROBES: Final = (' Is "Zq7"\n<é> & {{ 1 }} what? ', "Zq7?")
"""Questions with all that a template might change."""

_SECONDS: Final = 2
"""Of processor time, for the template alone."""
_WAIT: Final = 120
"""Seconds for the process, on a machine however busy."""
_MEMORY: Final = 2**30
_CHARACTERS: Final = 100_000


@dataclass(frozen=True)
class Frame:
    """What a template writes around a question, for prompts with one picture and with two.

    Attributes:
        around: before and behind the question, with one picture and with two.
        trims: whether white space around the question is left out.
        ahead: whether pictures stand before all that a tokenizer makes of the text, which has no place of
            theirs then.
    """

    around: tuple[tuple[str, str], ...]
    trims: bool
    ahead: bool = False

    def text(self, question: str, images: int) -> str:
        before, behind = self.around[IMAGES.index(images)]
        return before + (question.strip() if self.trims else question) + behind

    def placing(self, place: str, text: str) -> Frame:
        """The same with another text for each picture's place."""
        written = tuple(
            (before.replace(place, text), behind.replace(place, text)) for before, behind in self.around
        )
        return replace(self, around=written)


def frame(template: str, variables: Mapping[str, str]) -> Frame:
    """The frame of a chat template.

    Args:
        variables: of the tokenizer, such as `bos_token`.

    Raises:
        UnsupportedModelError: the template is broken, fails on messages with pictures, takes too long, writes
            too much, or changes the question.
    """
    return _frame(template, tuple(sorted(variables.items())))


@lru_cache(maxsize=16)
def _frame(template: str, variables: tuple[tuple[str, str], ...]) -> Frame:
    written = _rendered(template, dict(variables))
    texts = {(probe, images): written.pop(0) for probe in _PROBES for images in IMAGES}
    for trims in (False, True):
        probe = _PROBES[0].strip() if trims else _PROBES[0]
        parts = [texts[_PROBES[0], images].split(probe) for images in IMAGES]
        if all(len(part) == 2 for part in parts):
            found = Frame(tuple((before, behind) for before, behind in parts), trims)
            if all(found.text(*asked) == text for asked, text in texts.items()):
                return found
    raise UnsupportedModelError("the chat template must write the question once, as it is")


def _rendered(template: str, variables: Mapping[str, str]) -> list[str]:
    conversations = [
        [{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": probe}]}]
        for probe in _PROBES
        for images in IMAGES
    ]
    task = json.dumps({"template": template, "variables": variables, "conversations": conversations})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONSAFEPATH": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=task.encode(),
            env=environment,
            capture_output=True,
            timeout=_WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedModelError(f"the chat template took more than {_WAIT} seconds") from error
    if done.returncode in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0)):
        raise UnsupportedModelError(f"the chat template took more than {_SECONDS} seconds")
    try:
        result: dict[str, Any] = json.loads(done.stdout.rpartition(b"\n")[2])  # behind what else was printed
    except ValueError as error:
        told = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise UnsupportedModelError(f"the chat template could not be run: {told[-1]}") from error
    if "error" in result:
        raise UnsupportedModelError(
            f"the chat template fails on a message with pictures and a question: {result['error']}"
        )
    texts: list[str] = result["texts"]
    return texts


def _main() -> None:
    """The other process: a task on standard input, its texts or what went wrong on standard output."""
    task = json.load(sys.stdin)
    sys.modules["torch"] = None  # type: ignore[assignment]  # seconds to import, and of no use here
    from transformers.utils.chat_template_utils import render_jinja_template

    result: dict[str, Any]
    _limit()
    try:
        texts = [
            render_jinja_template(
                conversations=[conversation],
                chat_template=task["template"],
                add_generation_prompt=True,
                **task["variables"],
            )[0][0]
            for conversation in task["conversations"]
        ]
        if sum(map(len, texts)) > _CHARACTERS:
            result = {"error": f"it writes more than {_CHARACTERS} characters"}
        else:
            result = {"texts": texts}
    except MemoryError:
        result = {"error": "it takes too much memory"}
    except Exception as error:  # noqa: BLE001  # jinja2's, or whatever the template calls
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    json.dump(result, sys.stdout)


def _limit() -> None:
    """Bound this process, where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + _SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _main()
