"""`secondlook demo`: a dozen pictures asked through edge and server over loopback, as a table and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import typer
from rich.console import Console
from rich.progress import track

from secondlook.benchmarks.commands import show
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.report.document import escaped, markdown_table
from secondlook.benchmarks.report.drawing import draw_looks
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.benchmarks.signs.questions import Question, is_correct
from secondlook.edge.answer import EdgeAnswer
from secondlook.edge.client import EdgeClient
from secondlook.edge.files import check_writable, write_files
from secondlook.edge.imaging import Picture, open_picture
from secondlook.edge.wire import Answer, AnswerOptions
from secondlook.engine.opening import EngineOptions, load_engine, loading_status

_NAME = "{:02d}-{}"
_DECISIONS = {
    "no_detail_to_gain": "no detail to gain",
    "took_second": "second look",
    "kept_first": "kept the first",
}


@dataclass(frozen=True)
class _Asked:
    question: Question
    answer: EdgeAnswer
    original_bytes: int

    @property
    def sent(self) -> int:
        return sum(self.answer.bytes_up)


def run_demo(out: Path, seed: int, count: int, model: str) -> None:
    """Ask `count` test pictures of this seed; print the table and totals, and save pictures in `out`."""
    check_writable(out / _NAME.format(1, "original.jpg"))
    with loading_status(model):
        engine = load_engine(EngineOptions(model))
    asked = []
    # A transport of its own: a proxy that the environment names must not come between.
    transport = httpx.HTTPTransport(verify=False)
    with loopback_server(engine) as url, EdgeClient(url, transport=transport) as client:
        typer.echo(f"{engine.card.name} answers on {url}")
        for index in track(range(count), "asking", console=Console(stderr=True), transient=True):
            test = SignsPicture("test", seed, index)
            question = _choose(test)
            original = test.read()
            picture = open_picture(original)
            answer = client.ask(picture, question.text, AnswerOptions(relevance=True))
            asked.append(_Asked(question, answer, len(original)))
            looks = BytesIO()
            captions = _captions(picture, question, answer)
            draw_looks(picture, answer, engine.card.global_view, captions).save(looks, "PNG")
            kept = {"original.jpg": original, "looks.png": looks.getvalue()}
            write_files({out / _NAME.format(index + 1, what): content for what, content in kept.items()})
    show(_table(asked))
    typer.echo("\n".join(_totals(asked, out)))


def _choose(test: SignsPicture) -> Question:
    """Mostly something to read; the fifth and the ninth of a dozen ask the other types."""
    return test.questions[test.index // 4 % len(test.questions)] if test.index % 4 == 0 else test.questions[0]


def _captions(picture: Picture, question: Question, answer: EdgeAnswer) -> tuple[str, str, str]:
    size = picture.size
    sought = "Relative attention" + (" and region" if answer.region else "; sure: no second look")
    again = "No second look" if answer.second is None else _told("Second look", answer.second)
    return (
        f"{question.text}\n{_told('First look', answer.first)}",
        f"Original: {size.width} x {size.height}, {size.pixels / 1e6:.1f} megapixels\n{sought}",
        f"{again}\nTruth: {question.answer}",
    )


def _told(look: str, answer: Answer) -> str:
    text = answer.text if len(answer.text) <= 24 else answer.text[:23] + "…"
    return f"{look}: “{text}”, uncertainty {answer.uncertainty:.2f}"


_COLUMNS = ("question", "first answer", "decision", "final answer", "truth")
_FIGURES = ("uncertainty", "kB sent", "kB original")


def _table(asked: list[_Asked]) -> str:
    rows = [
        (
            item.question.text,
            escaped(item.answer.first.text),
            _DECISIONS.get(item.answer.decision, item.answer.decision),
            f"{escaped(item.answer.text)}{'' if is_correct(item.question, item.answer.text) else ' ✗'}",
            item.question.answer,
            f"{item.answer.first.uncertainty:.3f}",
            f"{item.sent / 1e3:.1f}",
            f"{item.original_bytes / 1e3:.0f}",
        )
        for item in asked
    ]
    return markdown_table([*_COLUMNS, *_FIGURES], rows, words=len(_COLUMNS))


def _totals(asked: list[_Asked], out: Path) -> list[str]:
    first = sum(is_correct(item.question, item.answer.first.text) for item in asked)
    final = sum(is_correct(item.question, item.answer.text) for item in asked)
    sent, originals = sum(item.sent for item in asked), sum(item.original_bytes for item in asked)
    twice = sum(item.answer.looked_twice for item in asked)
    seconds = sum(item.answer.seconds.total for item in asked) / len(asked)
    less = f"{originals / sent:.0f} times less"
    return [
        f"right: {final} of {len(asked)} after two looks, {first} after the first; {twice} looked twice",
        f"sent: {sent / 1e3:.0f} kB instead of the originals' {originals / 1e3:.0f} kB, {less}",
        f"time: {seconds:.2f} s a question; pictures: {out}",
    ]
