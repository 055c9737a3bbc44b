"""Several servers behind one address: both looks meet the same one, and one that is gone costs a question
asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from subprocess import Popen

import pytest
from PIL import Image

from engine.balancing import Balancer, balanced, two_replicas
from engine.fake_engine import FakeEngine
from engine.serving_harness import listening
from secondlook.edge import AsyncEdgeClient, ClientSettings, EdgeAnswer, EdgeClient
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings, SessionLimits

PICTURE = Image.new("RGB", (400, 300), "grey")
QUESTIONS = 24
SETTINGS = ClientSettings(first_wait=0.01)

Ask = Callable[[str, Callable[[str], None]], EdgeAnswer]


@pytest.fixture(params=["blocking", "asynchronous"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Asks a server with either client; the second argument is told of each stage."""

    def blocking(url: str, on_stage: Callable[[str], None]) -> EdgeAnswer:
        with EdgeClient(url, settings=SETTINGS) as client:
            return client.ask(PICTURE, "unsure", on_stage=on_stage)

    async def asynchronous(url: str, on_stage: Callable[[str], None]) -> EdgeAnswer:
        async with AsyncEdgeClient(url, settings=SETTINGS) as client:
            return await client.ask(PICTURE, "unsure", on_stage=on_stage)

    if request.param == "blocking":
        return blocking
    return lambda url, on_stage: asyncio.run(asynchronous(url, on_stage))


@pytest.fixture
def replicas() -> Iterator[dict[str, Popen[str]]]:
    """Two for a test alone, which may kill them."""
    with two_replicas() as both:
        yield both


@pytest.fixture(scope="module")
def lasting_replicas() -> Iterator[dict[str, Popen[str]]]:
    with two_replicas() as both:
        yield both


def test_a_server_that_forgets_its_sessions_is_asked_again(ask: Ask) -> None:
    """One session waits at a time, and no end is remembered: what another opens is unknown then."""
    settings = ServerSettings(sessions=SessionLimits(max_waiting=1, max_remembered=0))
    stages: list[str] = []
    with listening(create_app(FakeEngine(), settings)) as url, EdgeClient(url) as other:

        def on_stage(stage: str) -> None:
            stages.append(stage)
            if stages.count("prepare_local") == 1 and stage == "prepare_local":
                other.ask(PICTURE, "unsure")

        answer = ask(url, on_stage)
    assert (answer.text, answer.refined, answer.asked_again) == ("second to unsure", True, True)
    assert answer.second_look_failed is None
    looks = ["first_look", "prepare_local", "second_look"]
    assert stages == ["open", "model", "prepare_global", *looks, *looks]


def test_a_replica_killed_between_the_looks_costs_a_question_asked_again(
    ask: Ask, replicas: dict[str, Popen[str]]
) -> None:
    with balanced(*replicas) as (url, balancer):

        def on_stage(stage: str) -> None:
            if stage == "prepare_local" and all(each.poll() is None for each in replicas.values()):
                _, met = balancer.served[-1]
                replicas[met].kill()
                replicas[met].wait()

        answer = ask(url, on_stage)
        assert (answer.text, answer.refined, answer.asked_again) == ("second to unsure", True, True)
        left = [address for address, process in replicas.items() if process.poll() is None]
        assert len(left) == 1
        assert [met for _, met in balancer.served[-2:]] == left * 2
        assert not ask(url, lambda stage: None).asked_again


def test_both_looks_of_a_question_meet_the_same_replica(
    ask: Ask, lasting_replicas: dict[str, Popen[str]]
) -> None:
    with balanced(*lasting_replicas) as (url, balancer):
        for _ in range(QUESTIONS):
            answer = ask(url, lambda stage: None)
            assert (answer.looked_twice, answer.asked_again) == (True, False)
        _check_together(balancer)


def _check_together(balancer: type[Balancer]) -> None:
    questions: dict[str, list[str]] = {}
    for name, met in balancer.served:
        if name:
            questions.setdefault(name, []).append(met)
    assert len(questions) == QUESTIONS
    assert all(len(met) == 2 and len(set(met)) == 1 for met in questions.values())
    assert {met[0] for met in questions.values()} == set(balancer.replicas)
