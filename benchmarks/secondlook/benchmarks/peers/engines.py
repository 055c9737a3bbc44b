"""The engines of `--engine` under the same looks, one a process: a script for an environment that has both.

    python -m secondlook.benchmarks.peers.engines own --count 20 >own.json
    python -m secondlook.benchmarks.peers.engines vllm --count 20 >vllm.json

`benchmarks/peers/engines.sh` runs one after the other, and prints the table of docs/engines.md.
"""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from secondlook.engine.threads import configure_threads

configure_threads()  # before what loads torch

import typer  # noqa: E402
from PIL import Image  # noqa: E402

from secondlook.benchmarks.environment import environment  # noqa: E402
from secondlook.benchmarks.signs.asked import asked_pictures  # noqa: E402
from secondlook.edge.imaging import decode_jpeg, open_picture  # noqa: E402
from secondlook.edge.wire import AnswerOptions  # noqa: E402
from secondlook.engine.local import ask_locally  # noqa: E402
from secondlook.engine.opening import Backend, EngineOptions, load_engine  # noqa: E402
from secondlook.engine.two_looks import TwoLooks  # noqa: E402

__all__ = ["measured"]

_ONCE = AnswerOptions(second_look="never")
_TWICE = AnswerOptions(second_look="always")
_ENTROPY = AnswerOptions(second_look="never", measure="shannon_entropy")


def measured(engine: TwoLooks, count: int, together: int) -> dict[str, float]:
    """Medians over so many pictures, each asked about for the first time, in milliseconds; and answers a
    second of as many, so many at a time."""
    pictures = asked_pictures()

    def timed(options: AnswerOptions) -> float:
        drawn = next(pictures)
        opened = open_picture(Image.open(io.BytesIO(drawn.jpeg)))
        began = time.perf_counter()
        ask_locally(engine, opened, drawn.questions[0], options)
        return 1e3 * (time.perf_counter() - began)

    found = dict[str, float]()
    for name, options in (("one_look_ms", _ONCE), ("two_looks_ms", _TWICE), ("by_entropy_ms", _ENTROPY)):
        timed(options)  # what is made once is no answer's
        found[name] = statistics.median(timed(options) for _ in range(count))
    found["answers_per_second"] = count / _seconds(engine, pictures, count, together)
    return found


def _seconds(engine: TwoLooks, pictures: Iterator[Any], count: int, together: int) -> float:
    waiting = list[Callable[[], Any]]()
    for _ in range(count):
        drawn = next(pictures)
        opened = open_picture(Image.open(io.BytesIO(drawn.jpeg)))
        sent = decode_jpeg(opened.global_image(engine.card.global_view).jpeg)
        asked = engine.prepare(sent, drawn.questions[0], opened.size, _ONCE)
        waiting.append(lambda asked=asked: engine.start_first_look(asked))  # type: ignore[misc]  # bound now
    going, began = list[Any](), time.perf_counter()
    while waiting or going:
        while waiting and len(going) < together:
            going.append(waiting.pop(0)())
        engine.round()
        going = [one for one in going if not one.future.done()]
    return time.perf_counter() - began


def _main(
    engine: Annotated[Backend, typer.Argument(help="Which one.")],
    model: Annotated[str, typer.Option(help="A name or a folder.")] = "demo",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    count: Annotated[int, typer.Option(min=1, help="Pictures of each measurement.")] = 20,
    together: Annotated[int, typer.Option(min=1, max=64, help="Looks at a time, of many.")] = 16,
) -> None:
    """Measure one engine; a JSON object."""
    began = time.perf_counter()
    loaded = load_engine(EngineOptions(model, dtype, kv_cache_gb=1.0, backend=engine))
    told = {"engine": engine, "model": model, "count": count, "load_s": time.perf_counter() - began}
    told |= measured(loaded, count, together)
    typer.echo(json.dumps(told | {"environment": environment("cpu", dtype)}))


if __name__ == "__main__":  # vLLM's processes begin by importing this again
    typer.run(_main)
