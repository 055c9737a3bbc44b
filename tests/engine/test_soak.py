"""Five thousand requests from 32 clients, edges, OpenAI's and the page's, a tenth of them killed: each other
has its right answer, and nothing is left of any."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from engine.checkpoints import write_checkpoint
from engine.mixed_clients import CLIENTS, Asked, Client, Told, pictures
from engine.serving_harness import listening
from secondlook.edge.wire import AnswerOptions
from secondlook.engine import Engine, load_model
from secondlook.engine.decode.cache import CacheSettings, KeptPrefix
from secondlook.engine.decode.flows import Request
from secondlook.engine.models.pictures import Picture
from secondlook.engine.results import Pending
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.observing import Observation
from secondlook.engine.serve.openai.replies import Completion
from secondlook.engine.serve.places import Place
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ChatLimits, PictureStoreLimits, ServerSettings, SessionLimits
from secondlook.engine.serve.worker import Submitted

REQUESTS, CLIENTS_AT_ONCE, WARM_UP, SLOTS = 5000, 32, 500, 6
KILLED = 0.1
QUESTIONS = ("What is the number on the sign?", "Is it a sign?", "Which colour has it?")
SETTINGS = ServerSettings(
    queue_size=8 * CLIENTS_AT_ONCE,  # all of them are one client's: they have one address
    sessions=SessionLimits(seconds=5.0, max_remembered=100),
    chat=ChatLimits(pictures=PictureStoreLimits(most=8)),
)
PICTURES, QUESTIONS_ASKED = 12, 24
SECONDS = 60

pytestmark = pytest.mark.usefixtures("one_thread")

Kind = Callable[[Client, Asked], Awaitable[Told]]
Right = dict[tuple[Kind, Asked], Told]


def some_questions() -> list[Asked]:
    chance = random.Random(0)
    drawn = pictures(PICTURES, chance)
    return [
        Asked(
            chance.choice(drawn),
            chance.choice(QUESTIONS),
            AnswerOptions(
                second_look=chance.choice(["always", "auto", "never"]),
                max_new_tokens=chance.randint(1, 12),
                decide_after=chance.randint(1, 5),
            ),
        )
        for _ in range(QUESTIONS_ASKED)
    ]


async def right_answers(url: str) -> Right:
    """To each question by each kind of client, asked alone: kinds send other pixels."""
    async with Client(url, random.Random(0)) as client:
        return {(kind, asked): await kind(client, asked) for asked in some_questions() for kind in CLIENTS}


async def ask(client: Client, right: Right, chance: random.Random, moments: list[float]) -> str:
    """One request: what came of it."""
    kind, asked = chance.choice(list(right))
    asking = asyncio.ensure_future(kind(client, asked))
    began = time.perf_counter()
    if chance.random() < KILLED:
        await asyncio.wait({asking}, timeout=chance.choice(moments) * chance.random())
        if asking.cancel():
            await asyncio.wait({asking})
            return "killed"
    told = await asking
    moments[chance.randrange(len(moments))] = time.perf_counter() - began
    if told != right[kind, asked]:
        return f"wrong: {kind.__name__} {asked.options} {told} {right[kind, asked]}"
    return f"{kind.__name__}, {'refined' if told.refined else 'answered'}"


async def soak(url: str, right: Right, requests: int, seed: int) -> Counter[str]:
    """All requests, by clients that each ask one after another."""
    numbers, ended, moments = iter(range(requests)), Counter[str](), [0.1] * 50

    async def one(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        async with Client(url, chance) as client:
            for _ in numbers:
                ended[await ask(client, right, chance, moments)] += 1

    await asyncio.gather(*(one(number) for number in range(CLIENTS_AT_ONCE)))
    return ended


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Leaves what other tests left out of `gc.get_objects`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def left(engine: Engine, app: FastAPI) -> dict[str, float]:
    """What is there of requests, in objects and bytes of tensors."""
    service: TwoLookService = app.state.service
    assert len(app.state.chat.pictures) <= SETTINGS.chat.pictures.most
    gc.collect()
    found = gc.get_objects()
    prefixes = [one for one in found if type(one) is KeptPrefix]
    assert len(prefixes) <= 3 * SLOTS, "kept for the same pictures, and bounded"
    known = {id(one) for one in engine._localiser._generics.values()}
    tensors = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in found
        if issubclass(type(tensor), torch.Tensor)
        and id(tensor) not in known
        and tensor.layout == torch.strided  # others are weights that were packed
    }
    kinds: dict[str, tuple[type, ...]] = {
        "looks": (Request, Submitted),
        "observations": (Observation, Completion),
        "places": (Place,),
        "pictures": (Picture, Image.Image),
        "pending": (Pending,),
    }
    return {
        "sessions": len(service._sessions),
        "waiting": service.waiting + service.running,
        "bodies": app.state.bodies._held.total(),
        "files": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,
        **{name: sum(issubclass(type(one), kind) for one in found) for name, kind in kinds.items()},
        "tensor bytes": sum(tensors.values()),
    }


def settle(engine: Engine, app: FastAPI, done: Callable[[], bool]) -> None:
    """Wait until nobody is served any more, and the sessions of the killed are over."""
    deadline = time.monotonic() + SECONDS
    sessions = app.state.service._sessions
    while engine._pool.used or engine._scheduler.requests or len(sessions) or not done():
        assert time.monotonic() < deadline, (
            f"{engine._pool.used} {engine._scheduler.requests} {left(engine, app)}"
        )
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("only_new_objects")
def test_nothing_is_left_of_five_thousand_requests_and_none_is_lost(tmp_path: Path) -> None:
    model = load_model(str(write_checkpoint(tmp_path)), device="cpu")
    engine = Engine(model, cache=CacheSettings(most_slots=SLOTS))
    app = create_app(engine, SETTINGS)
    with listening(app) as url:
        right = asyncio.run(right_answers(url))
        asyncio.run(soak(url, right, WARM_UP, seed=0))
        settle(engine, app, lambda: True)
        before = left(engine, app)
        ended = asyncio.run(soak(url, right, REQUESTS, seed=1))
        settle(engine, app, lambda: left(engine, app) == before)
    assert sum(ended.values()) == REQUESTS
    assert 0.05 * REQUESTS < ended.pop("killed") < 0.15 * REQUESTS
    expected = {f"{kind.__name__}, {how}" for kind in CLIENTS for how in ("refined", "answered")}
    assert set(ended) == expected
    assert min(ended.values()) > 100
    for kind in ("sessions", "waiting", "bodies", "looks", "observations", "places", "pending"):
        assert before[kind] == 0, before
