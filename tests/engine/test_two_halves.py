"""The real edge and the real engine, one small model of noise between them."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from engine.checkpoints import IMAGE_SIZE, write_checkpoint
from engine.fake_engine import FakeEngine
from engine.serving_harness import listening
from secondlook.edge.client import AsyncEdgeClient, EdgeClient
from secondlook.edge.errors import RequestRefusedError
from secondlook.edge.imaging import open_picture
from secondlook.edge.wire import AnswerOptions
from secondlook.engine import Engine, load_model
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.local import ask_locally
from secondlook.engine.serve.app import create_app

ALWAYS = AnswerOptions(second_look="always", arbitration=False)
QUESTION = "What is the number on the sign?"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(load_model(str(write_checkpoint(tmp_path_factory.mktemp("checkpoint"))), device="cpu"))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    gradient = Image.linear_gradient("L").resize((640, 480))
    return Image.merge(
        "RGB", (gradient, gradient.rotate(90).resize((640, 480)), Image.new("L", (640, 480), 90))
    )


@pytest.mark.parametrize("slots", [64, 1])
def test_over_http_and_in_one_process_the_answers_are_the_same(
    engine: Engine, picture: Image.Image, slots: int
) -> None:
    expected = ask_locally(engine, open_picture(picture), QUESTION, ALWAYS)
    served = Engine(engine.model, cache=CacheSettings(most_slots=slots))
    with listening(create_app(served)) as url, EdgeClient(url) as client:
        answer = client.ask(picture, QUESTION, ALWAYS)
    assert answer.looked_twice
    assert answer.second_look_failed is None
    assert answer.text == expected.reply.answer.text
    for found, other in ((answer.first, expected.reply.first), (answer.second, expected.reply.second)):
        assert found is not None
        assert other is not None
        assert found.text == other.text
        # Which tokens are computed together depends on when the local image comes, and the last bits on that.
        assert found.uncertainty == pytest.approx(other.uncertainty, rel=1e-5)
        assert (found.tokens, found.complete) == (other.tokens, other.complete)
    assert answer.region is not None
    assert expected.reply.region is not None
    assert answer.region.as_tuple() == tuple(expected.reply.region.model_dump().values())


@pytest.mark.parametrize("size", [(640, 480), (481, 1003), (2000, 90), (85, 85), (IMAGE_SIZE, IMAGE_SIZE)])
def test_the_local_image_of_any_picture_is_what_the_server_expects(
    engine: Engine, size: tuple[int, int]
) -> None:
    with listening(create_app(engine)) as url, EdgeClient(url) as client:
        answer = client.ask(Image.effect_noise(size, 60), QUESTION, ALWAYS)
    assert answer.second_look_failed is None
    assert answer.looked_twice == (max(size) > IMAGE_SIZE)


def test_many_edges_at_once_get_their_own_answers() -> None:
    async def main() -> None:
        with listening(create_app(FakeEngine())) as url:
            async with AsyncEdgeClient(url) as client:
                asked = (client.ask(Image.new("RGB", (400, 300)), f"question {n}") for n in range(8))
                answers = await asyncio.gather(*asked)
        assert [answer.text for answer in answers] == [f"second to question {n}" for n in range(8)]

    asyncio.run(main())


def test_the_edge_is_told_why_it_was_refused(engine: Engine, picture: Image.Image) -> None:
    with listening(create_app(engine)) as url, EdgeClient(url) as client:
        with pytest.raises(RequestRefusedError, match="<image>") as refused:
            client.ask(picture, "What is <image>?")
        assert refused.value.status == 422
        assert client.ask(picture, QUESTION, AnswerOptions(second_look="never")).looked_twice is False
