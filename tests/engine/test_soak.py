"""Two thousand requests from sixteen edges, a tenth of them killed: nothing is left of any."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.checkpoints import write_checkpoint
from engine.serving_harness import listening
from secondlook.edge import AsyncEdgeClient
from secondlook.edge.wire import AnswerOptions
from secondlook.engine import Engine, load_model
from secondlook.engine.decode.cache import CacheSettings, KeptPrefix
from secondlook.engine.decode.scheduler import Request
from secondlook.engine.models.pictures import Picture
from secondlook.engine.results import Pending
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ServerSettings, SessionLimits
from secondlook.engine.serve.worker import Submitted

REQUESTS, EDGES, WARM_UP, SLOTS = 2000, 16, 200, 6
KILLED = 0.1
QUESTIONS = ("What is the number on the sign?", "Is it a sign?", "Which colour has it?")
SETTINGS = ServerSettings(sessions=SessionLimits(seconds=2.0, max_remembered=100))
SECONDS = 20

pytestmark = pytest.mark.usefixtures("one_thread")


async def ask(client: AsyncEdgeClient, chance: random.Random, moments: list[float]) -> str:
    """One request: what came of it."""
    coarse = Image.frombytes("RGB", (6, 4), chance.randbytes(72))
    options = AnswerOptions(
        second_look=chance.choice(["always", "auto", "never"]),
        max_new_tokens=chance.randint(1, 12),
        decide_after=chance.randint(1, 5),
    )
    asking = asyncio.create_task(client.ask(coarse.resize((480, 320)), chance.choice(QUESTIONS), options))
    began = time.perf_counter()
    if chance.random() < KILLED:
        await asyncio.wait({asking}, timeout=chance.choice(moments) * chance.random())
        if asking.cancel():
            await asyncio.wait({asking})
            return "killed"
    answer = await asking
    assert answer.second_look_failed is None
    moments[chance.randrange(len(moments))] = time.perf_counter() - began
    return "refined" if answer.looked_twice else "answered"


async def soak(url: str, requests: int, seed: int) -> Counter[str]:
    """All requests, by edges that each ask one after another."""
    numbers, ended, moments = iter(range(requests)), Counter[str](), [0.1] * 50

    async def edge(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        async with AsyncEdgeClient(url) as client:
            for _ in numbers:
                ended[await ask(client, chance, moments)] += 1

    await asyncio.gather(*(edge(number) for number in range(EDGES)))
    return ended


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Leaves what other tests left out of `gc.get_objects`."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def left(engine: Engine, service: TwoLookService) -> dict[str, float]:
    """What is there of requests, in objects and bytes of tensors."""
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
        "pictures": (Picture, Image.Image),
        "pending": (Pending,),
    }
    return {
        "sessions": len(service._sessions),
        "waiting": service.waiting,
        "files": len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0,
        **{name: sum(issubclass(type(one), kind) for one in found) for name, kind in kinds.items()},
        "tensor bytes": sum(tensors.values()),
    }


def settle(engine: Engine, service: TwoLookService, done: Callable[[], bool]) -> None:
    """Wait until nobody is served any more, and the sessions of the killed are over."""
    deadline = time.monotonic() + SECONDS
    while engine._pool.used or engine._scheduler.requests or len(service._sessions) or not done():
        assert time.monotonic() < deadline, (
            f"{engine._pool.used} {engine._scheduler.requests} {left(engine, service)}"
        )
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("only_new_objects")
def test_nothing_is_left_of_two_thousand_requests(tmp_path: Path) -> None:
    model = load_model(str(write_checkpoint(tmp_path)), device="cpu")
    engine = Engine(model, cache=CacheSettings(most_slots=SLOTS))
    app = create_app(engine, SETTINGS)
    service: TwoLookService = app.state.service
    with listening(app) as url:
        asyncio.run(soak(url, WARM_UP, seed=0))
        settle(engine, service, lambda: True)
        before = left(engine, service)
        ended = asyncio.run(soak(url, REQUESTS, seed=1))
        settle(engine, service, lambda: left(engine, service) == before)
    assert sum(ended.values()) == REQUESTS
    assert 0.05 * REQUESTS < ended["killed"] < 0.15 * REQUESTS
    assert ended["refined"] > 100
    assert ended["answered"] > 100
    assert before["sessions"] == before["waiting"] == before["looks"] == before["pending"] == 0
