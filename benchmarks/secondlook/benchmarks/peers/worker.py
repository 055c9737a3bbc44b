"""The process of our engine, or of transformers'.

python -m secondlook.benchmarks.peers.worker ours|transformers FOLDER DTYPE
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from secondlook.engine.threads import configure_threads

configure_threads()  # before what loads torch

import torch  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from secondlook.benchmarks.latency.flow import Request  # noqa: E402
from secondlook.benchmarks.latency.ours import answered  # noqa: E402
from secondlook.benchmarks.latency.published import (  # noqa: E402
    EncodingOnceFlow,
    ReferenceFlow,
    StrongFlow,
)
from secondlook.benchmarks.latency.subject import Preset, Subject, served  # noqa: E402
from secondlook.benchmarks.options import NEVER  # noqa: E402
from secondlook.benchmarks.peers.rows import OURS  # noqa: E402
from secondlook.edge.wire import AnswerOptions  # noqa: E402
from secondlook.engine.decode.cache import CacheSettings  # noqa: E402
from secondlook.engine.engine import Engine  # noqa: E402
from secondlook.engine.models.checkpoint import DType, load_model  # noqa: E402
from secondlook.engine.results import Look  # noqa: E402

Told = dict[str, Any]


class Peer(Protocol):
    """What a process of this kind is asked; times are in milliseconds."""

    def look(self, request: Request) -> Told: ...

    def two_looks(self, request: Request) -> Told: ...

    def load(self, requests: Sequence[Request], clients: int) -> Told: ...


class Ours:
    """The engine, on a model that no token ends."""

    def __init__(self, folder: Path, dtype: DType) -> None:
        model = load_model(str(folder), dtype=dtype, device="cpu")
        model.eos_ids = frozenset()
        self._engine = Engine(model)
        self._asked = 0

    def look(self, request: Request) -> Told:
        moments = list[float]()

        def note(look: Look) -> None:
            assert moments or len(look.token_ids) == 1, "of the first token it is told by itself"
            moments.append(time.perf_counter())

        began = time.perf_counter()
        going = self._start(request, note)
        while not going.future.done():
            self._engine.round()
        ended = time.perf_counter()
        tokens = going.future.result().look.token_ids
        return _looked(began, moments[0], ended, tokens)

    def two_looks(self, request: Request) -> Told:
        return {"two_looks_ms": 1e3 * answered(self._engine, request).seconds["final_answer"]}

    def load(self, requests: Sequence[Request], clients: int) -> Told:
        waiting, going, began = list(requests), list[Any](), time.perf_counter()
        while waiting or going:
            while waiting and len(going) < clients:
                going.append(self._start(waiting.pop(0)))
            self._engine.round()
            for one in going:
                if one.future.done():
                    one.future.result()
            going = [one for one in going if not one.future.done()]
        return {"answers_per_second": len(requests) / (time.perf_counter() - began)}

    def _start(self, request: Request, on_tokens: Any = None) -> Any:
        self._asked += 1
        options = AnswerOptions(threshold=NEVER, second_look="never", max_new_tokens=request.new_tokens)
        asked = self._engine.prepare(
            request.global_image, request.question, request.size, options, client=str(self._asked)
        )
        return self._engine.start_first_look(asked, on_tokens=on_tokens)


def flows_on(folder: Path, dtype: DType) -> list[ReferenceFlow]:
    """Transformers' flows of `bench latency`, on one model."""
    kind: Any = AutoModelForImageTextToText  # untyped
    model = kind.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
    ).eval()
    model.generation_config.eos_token_id = None
    shapes = load_model(str(folder), device="cpu").shapes()
    assert shapes is not None, "it has shapes"
    preset = Preset(folder.name, shapes)
    engine = Engine(served(preset, model), cache=CacheSettings(most_slots=1))  # for pictures and prompts
    return [kind(Subject(preset, model, engine)) for kind in (ReferenceFlow, StrongFlow, EncodingOnceFlow)]


class Transformers:
    """One of its flows."""

    def __init__(self, flow: ReferenceFlow) -> None:
        self._flow = flow

    def look(self, request: Request) -> Told:
        found = self._flow.answer(request)
        told = {f"{name}_ms": 1e3 * value for name, value in found.seconds.items()}
        return {
            "first_token_ms": told["first_token_ms"],
            "per_token_ms": told["per_token_ms"],
            "final_ms": told["final_answer_ms"],
            "tokens": found.first,
        }

    def two_looks(self, request: Request) -> Told:
        return {"two_looks_ms": 1e3 * self._flow.answer(request).seconds["final_answer"]}

    def load(self, requests: Sequence[Request], clients: int) -> Told:
        """One after the other, for `generate` takes no request while it is at another."""
        del clients
        began = time.perf_counter()
        for request in requests:
            self._flow.answer(request)
        return {"answers_per_second": len(requests) / (time.perf_counter() - began)}


def _looked(began: float, first: float, ended: float, tokens: Sequence[int]) -> Told:
    return {
        "first_token_ms": 1e3 * (first - began),
        "per_token_ms": 1e3 * (ended - first) / (len(tokens) - 1),
        "final_ms": 1e3 * (ended - began),
        "tokens": tuple(tokens),
    }


def main() -> None:
    """Do what the pipe asks for: a peer's name, a method's, and its arguments."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    engine, folder, dtype = sys.argv[1:]
    precision: DType = dtype  # type: ignore[assignment]  # the command names no other
    peers: dict[str, Peer]
    if engine == OURS:
        peers = {OURS: Ours(Path(folder), precision)}
    else:
        peers = {flow.name: Transformers(flow) for flow in flows_on(Path(folder), precision)}
    told: object = "ready"
    while True:
        pickle.dump(told, answers)
        answers.flush()
        try:
            task, (peer, *arguments) = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        told = getattr(peers[peer], task)(*arguments)


if __name__ == "__main__":
    main()
