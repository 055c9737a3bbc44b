"""Five thousand requests from 32 clients of every kind, cameras and browsers among them, a tenth killed: each
other has its right answer, and nothing is left of any."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from engine.checkpoints import write_checkpoint
from engine.mixed_clients import CLIENTS, Asked, Client, Told, pictures
from engine.serving_harness import listening
from engine.tabs import Tab, tabs
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
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.serve.worker import Submitted
from secondlook.engine.stream.live import LiveStream
from secondlook.engine.stream.service import StreamSettings
from secondlook.engine.stream.state import Method

REQUESTS, CLIENTS_AT_ONCE, WARM_UP, SLOTS = 5000, 32, 500, 6
BROWSERS, OF_A_BROWSER = 3, 1 / 125  # of the clients; of the requests, by each
KILLED = 0.1
QUESTIONS = ("What is the number on the sign?", "Is it a sign?", "Which colour has it?")
SETTINGS = ServerSettings(
    queue_size=8 * CLIENTS_AT_ONCE,  # all of them are one client's: they have one address
    sessions=SessionLimits(seconds=5.0, max_remembered=100),
    chat=ChatLimits(pictures=PictureStoreLimits(most=8)),
)
SITE = StreamSettings(
    method=Method(memory=False, in_flight=0),  # each frame by itself
    deadline=60,
    idle_seconds=5.0,
    max_streams=8 * CLIENTS_AT_ONCE,
)
PICTURES, QUESTIONS_ASKED = 12, 24
SECONDS = 60

pytestmark = pytest.mark.usefixtures("one_thread")

Who = Client | Tab
Kind = Callable[[Any, Asked], Awaitable[Told]]
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
    async with Client(url, random.Random(0)) as client, tabs(url, 1) as (tab,):
        kinds = [*((client, kind) for kind in CLIENTS), (tab, Tab.browser)]
        return {(kind, asked): await kind(who, asked) for asked in some_questions() for who, kind in kinds}


async def ask(client: Who, right: Right, chance: random.Random, moments: list[float]) -> str:
    """One request: what came of it."""
    kind, asked = chance.choice(
        [each for each in right if (each[0] is Tab.browser) == isinstance(client, Tab)]
    )
    asking = asyncio.ensure_future(kind(client, asked))
    began = time.perf_counter()
    if chance.random() < KILLED:
        await asyncio.wait({asking}, timeout=chance.choice(moments) * chance.random())
        if asking.cancel():
            await asyncio.wait({asking})
            return f"{kind.__name__}, killed"
    told = await asking
    moments[chance.randrange(len(moments))] = time.perf_counter() - began
    if told != right[kind, asked]:
        return f"wrong: {kind.__name__} {asked.options} {told} {right[kind, asked]}"
    return f"{kind.__name__}, {'refined' if told.refined else 'answered'}"


async def soak(url: str, right: Right, requests: int, seed: int) -> Counter[str]:
    """All requests, by clients that each ask one after another."""
    ended = Counter[str]()
    each = round(requests * OF_A_BROWSER)
    numbers = iter(range(requests - BROWSERS * each))

    async def all_of(
        client: Who, numbers: Iterable[int], chance: random.Random, moments: list[float]
    ) -> None:
        for _ in numbers:
            ended[await ask(client, right, chance, moments)] += 1

    async def one(number: int, moments: list[float]) -> None:
        chance = random.Random(f"{seed} {number}")
        async with Client(url, chance) as client:
            await all_of(client, numbers, chance, moments)

    async with tabs(url, BROWSERS) as opened:
        moments, slower = [0.1] * 50, [0.5] * 20
        others = [one(number, moments) for number in range(CLIENTS_AT_ONCE - BROWSERS)]
        browsing = [
            all_of(tab, range(each), random.Random(f"{seed} browser {number}"), slower)
            for number, tab in enumerate(opened)
        ]
        await asyncio.gather(*others, *browsing)
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
        "open streams": (LiveStream,),
    }
    return {
        "sessions": len(service._sessions),
        "streams": len(app.state.streams),
        "waiting": service.waiting + service.running,
        "bodies": app.state.bodies._held.total(),
        "files": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,
        **{name: sum(issubclass(type(one), kind) for one in found) for name, kind in kinds.items()},
        "tensor bytes": sum(tensors.values()),
    }


def settle(engine: Engine, app: FastAPI, done: Callable[[], bool]) -> None:
    """Wait until nobody is served any more, and the sessions and streams of the killed are over."""
    deadline = time.monotonic() + SECONDS
    sessions, streams = app.state.service._sessions, app.state.streams
    while engine._pool.used or len(engine._flows._requests) or len(sessions) or len(streams) or not done():
        assert time.monotonic() < deadline, (
            f"{engine._pool.used} {len(engine._flows._requests)} {left(engine, app)}"
        )
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.needs_chromium
@pytest.mark.usefixtures("only_new_objects")
def test_nothing_is_left_of_five_thousand_requests_and_none_is_lost(tmp_path: Path) -> None:
    model = load_model(str(write_checkpoint(tmp_path)), device="cpu")
    engine = Engine(model, cache=CacheSettings(most_slots=SLOTS))
    app = create_app(engine, SETTINGS, streaming(SITE, cloud=None))
    with listening(app) as url:
        right = asyncio.run(right_answers(url))
        asyncio.run(soak(url, right, WARM_UP, seed=0))
        settle(engine, app, lambda: True)
        before = left(engine, app)
        ended = asyncio.run(soak(url, right, REQUESTS, seed=1))
        settle(engine, app, lambda: left(engine, app) == before)
    assert sum(ended.values()) == REQUESTS
    kinds, ways = [kind.__name__ for kind in (*CLIENTS, Tab.browser)], ("refined", "answered", "killed")
    expected = {f"{kind}, {way}" for kind in kinds for way in ways} - {"camera, refined"}
    assert set(ended) == expected, ended
    assert 0.05 * REQUESTS < sum(ended[f"{kind}, killed"] for kind in kinds) < 0.15 * REQUESTS
    answered = {kind: ended[f"{kind}, refined"] + ended[f"{kind}, answered"] for kind in kinds}
    assert answered.pop("browser") > 90, ended
    assert min(answered.values()) > 600, ended
    assert min(number for how, number in ended.items() if "browser" not in how) > 50, ended
    for kind in before.keys() - {"files", "pictures", "tensor bytes"}:
        assert before[kind] == 0, before
