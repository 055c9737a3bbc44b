"""Both clients, through every path a conversation can take."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.conftest import Ask
from edge.support import (
    CARD,
    SECOND,
    ScriptedServer,
    card_of,
    encoded,
    final,
    gradient,
    refined,
    refusal,
    square,
    wants_region,
)
from secondlook.edge import (
    PROTOCOL,
    AnswerOptions,
    AsyncEdgeClient,
    Budget,
    ClientError,
    ClientSettings,
    EdgeAnswer,
    EdgeClient,
    EncodedPicture,
    JpegSettings,
    NotAPictureError,
    PictureLimits,
    PictureTooLargeError,
    ProtocolError,
    Region,
    Relevance,
    RequestRefusedError,
    SettingsError,
    Size,
    UnexpectedReplyError,
    View,
    decode_jpeg,
    open_picture,
)

PICTURE = encoded(gradient(400, 300), quality=95)
QUESTION = "What number is on the red sign?"


def form(request: httpx.Request) -> dict[str, Message]:
    """The parts of a multipart request, by name."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = BytesParser().parsebytes(head + request.content).get_payload()
    assert isinstance(parts, list)
    return {str(part.get_param("name", header="content-disposition")): part for part in parts}


def text_of(part: Message) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def picture_of(part: Message) -> Any:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return decode_jpeg(payload)


def test_a_sure_answer_takes_one_look(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, final()]
    answer = ask(PICTURE, QUESTION)
    assert server.asked == ["GET /v1/model", "POST /v1/answers"]
    parts = form(server.requests[1])
    assert set(parts) == {"image", "question", "width", "height"}
    assert text_of(parts["question"]) == QUESTION
    assert (text_of(parts["width"]), text_of(parts["height"])) == ("400", "300")
    assert parts["image"].get_content_type() == "image/jpeg"
    assert picture_of(parts["image"]).size == (96, 96)

    assert (answer.text, answer.uncertainty, answer.decision) == ("17", 1.25, "sure")
    assert not answer.refined
    assert not answer.looked_twice
    assert answer.second_look_failed is None
    assert answer.region is None
    assert answer.local_image is None
    assert answer.original == Size(400, 300)
    assert answer.pixels == (96 * 96,)
    assert answer.bytes_up == (len(server.requests[1].content),)
    assert answer.bytes_down == (len(httpx.Response(200, json=final()).content),)
    assert answer.seconds.second_look == answer.seconds.prepare_local == 0
    assert answer.seconds.first_look > 0
    assert answer.seconds.total > answer.seconds.first_look


def test_an_unsure_answer_is_refined(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), refined()]
    stages: list[str] = []
    answer = ask(PICTURE, QUESTION, on_stage=stages.append)
    assert server.asked == ["GET /v1/model", "POST /v1/answers", "POST /v1/answers/abc/local"]
    parts = form(server.requests[2])
    assert set(parts) == {"image"}
    assert picture_of(parts["image"]).size == (96, 96)  # 200x100 pixels, squashed as the model takes them
    assert stages == ["open", "model", "prepare_global", "first_look", "prepare_local", "second_look"]

    assert (answer.text, answer.uncertainty, answer.decision) == ("71", 0.25, "took_second")
    assert answer.refined
    assert answer.looked_twice
    assert answer.first.text == "17"
    assert answer.second is not None
    assert answer.second.text == "71"
    assert answer.region == Region(100, 50, 300, 150)
    assert answer.pixels == (96 * 96, 96 * 96)
    assert answer.visual_tokens == (36, 72)
    assert answer.bytes_up == tuple(len(request.content) for request in server.requests[1:])
    assert len(answer.bytes_down) == len(answer.server_seconds) == 2
    assert answer.local_image is not None
    assert answer.local_image.jpeg in server.requests[2].content
    assert answer.seconds.second_look > 0


def test_arbitration_may_keep_the_first_answer(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), final(decision="kept_first", second=SECOND)]
    answer = ask(PICTURE, QUESTION)
    assert answer.text == "17"
    assert answer.looked_twice
    assert not answer.refined
    assert answer.second_look_failed is None


def test_options_and_jpeg_settings_are_used(ask: Ask, server: ScriptedServer) -> None:
    settings = ClientSettings(global_jpeg=JpegSettings(10, "4:2:0"), local_jpeg=JpegSettings(5, "4:4:4"))
    server.steps = [CARD, wants_region(), refined()]
    ask(PICTURE, QUESTION, AnswerOptions(threshold=0.75, second_look="always"), settings=settings)
    first, second = form(server.requests[1]), form(server.requests[2])
    assert json.loads(text_of(first["options"])) == {"threshold": 0.75, "second_look": "always"}
    picture = open_picture(PICTURE)
    assert first["image"].get_payload(decode=True) == (
        picture.global_image(square(96), settings.global_jpeg).jpeg
    )
    assert second["image"].get_payload(decode=True) == (
        picture.local_image(Region(100, 50, 300, 150), square(96), settings.local_jpeg).jpeg
    )


def test_the_views_of_the_server_are_obeyed(ask: Ask, server: ScriptedServer) -> None:
    budget = View(size=Budget(multiple=28, least_pixels=28 * 28, most_pixels=28 * 28 * 16))
    card = {**card_of(64, "pad"), "local_view": budget.model_dump(mode="json")}
    server.steps = [card, wants_region(), refined()]
    ask(open_picture(PICTURE), QUESTION)
    sent = [picture_of(form(request)["image"]).size for request in server.requests[1:]]
    assert sent == [(64, 48), (140, 56)]  # 400x300 without padding; 200x100 within the budget


def test_every_request_says_which_version_it_speaks(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), refined()]
    ask(PICTURE, QUESTION)
    assert {request.headers["secondlook-protocol"] for request in server.requests} == {PROTOCOL}


@pytest.mark.parametrize("spoken", ["1.0", "3.1", None])
def test_a_server_of_another_version_is_named_in_one_line(
    ask: Ask, server: ScriptedServer, spoken: str | None
) -> None:
    server.steps = [{**CARD, "protocol": spoken} if spoken else {"name": "demo", "image_size": 336}]
    with pytest.raises(ProtocolError, match="install the same version of secondlook on both") as caught:
        ask(PICTURE, QUESTION)
    assert (spoken or "an older protocol") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_newer_server_of_the_same_version_is_understood(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [{**CARD, "protocol": "2.9", "added": 1}, final(added={"later": True})]
    assert ask(PICTURE, QUESTION).text == "17"


def test_relevance_comes_with_the_answer(ask: Ask, server: ScriptedServer) -> None:
    shown = {"width": 3, "height": 2, "data": base64.b64encode(bytes([0, 1, 2, 253, 254, 255])).decode()}
    server.steps = [CARD, wants_region(relevance=shown), refined()]
    relevance = ask(PICTURE, QUESTION, AnswerOptions(relevance=True)).relevance
    assert relevance is not None
    assert relevance.rows() == [[0, 1, 2], [253, 254, 255]]
    told = final(decision="unsure")  # what the server says of a session that is given up has no map
    server.steps = [CARD, wants_region(relevance=shown), refusal(422, "not the region asked for"), told]
    answer = ask(PICTURE, QUESTION, AnswerOptions(relevance=True))
    assert server.steps == []
    assert answer.relevance == relevance
    for data in ("AAAA", "no base64"):
        with pytest.raises(UnexpectedReplyError, match=r"3 bytes, not 3 times 2|not base64"):
            Relevance(width=3, height=2, data=data).rows()


@pytest.mark.parametrize("kind", ["path", "text", "image"])
def test_pictures_come_in_any_form(kind: str, ask: Ask, server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(PICTURE)
    source = {"path": path, "text": str(path), "image": gradient(400, 300)}[kind]
    server.steps = [CARD, final()]
    assert ask(source, QUESTION).original == Size(400, 300)


def test_a_result_is_ready_for_json(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), refined()]
    result = json.loads(json.dumps(ask(PICTURE, QUESTION).to_dict()))
    assert result["text"] == "71"
    assert result["refined"] is True
    assert result["region"] == {"left": 100, "top": 50, "right": 300, "bottom": 150}
    assert result["first"] == {
        "text": "17",
        "uncertainty": 1.25,
        "tokens": 3,
        "visual_tokens": 36,
        "complete": True,
    }
    assert set(result["seconds"]) == {
        "prepare_global",
        "first_look",
        "prepare_local",
        "second_look",
        "total",
    }
    assert len(result["bytes_up"]) == len(result["bytes_down"]) == len(result["pixels"]) == 2


# --- pictures and addresses -------------------------------------------------------------------------------


def test_bad_pictures_are_found_before_anything_is_sent(ask: Ask, server: ScriptedServer) -> None:
    with pytest.raises(NotAPictureError):
        ask(b"no picture", QUESTION)
    with pytest.raises(PictureTooLargeError):
        ask(PICTURE, QUESTION, settings=ClientSettings(limits=PictureLimits(max_pixels=1000)))
    assert server.requests == []


def test_questions_that_are_no_text(ask: Ask, server: ScriptedServer) -> None:
    with pytest.raises(ClientError, match="is not valid Unicode text"):
        ask(PICTURE, "caf\udce9?")
    assert server.requests == []


@pytest.mark.parametrize("address", ["server:8000", "ftp://server", "http://", "", "http://a:b", "//server"])
def test_addresses_that_are_none(address: str) -> None:
    for client in (EdgeClient, AsyncEdgeClient):
        with pytest.raises(SettingsError, match="address"):
            client(address)


def test_a_path_before_the_servers_own_is_kept(server: ScriptedServer) -> None:
    server.steps = [CARD, final()]
    with EdgeClient("http://gateway/eyes/", transport=httpx.MockTransport(server)) as client:
        client.ask(PICTURE, QUESTION)
    assert server.asked == ["GET /eyes/v1/model", "POST /eyes/v1/answers"]


@pytest.mark.parametrize(("address", "verifies"), [("http://server", False), ("https://server", True)])
def test_certificates_are_loaded_where_they_are_needed(
    address: str, verifies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(httpx, "Client", lambda **options: made.append(options))
    EdgeClient(address)
    assert [isinstance(options["verify"], ssl.SSLContext) for options in made] == [verifies]


def test_the_model_card_is_asked_for_once(server: ScriptedServer) -> None:
    server.steps = [CARD, final(), final()]
    with EdgeClient("http://server", transport=httpx.MockTransport(server)) as client:
        assert client.model_card is None
        client.ask(PICTURE, QUESTION)
        client.ask(PICTURE, QUESTION)
        assert client.model_card is not None
        assert client.model_card.crop_size == 96
    assert server.asked.count("GET /v1/model") == 1


def test_after_a_refusal_the_model_card_is_asked_for_again(server: ScriptedServer) -> None:
    server.steps = [CARD, refusal(422, "the image must be 64x64"), card_of(64), final()]
    with EdgeClient("http://server", transport=httpx.MockTransport(server)) as client:
        with pytest.raises(RequestRefusedError):
            client.ask(PICTURE, QUESTION)
        assert client.ask(PICTURE, QUESTION).pixels == (64 * 64,)


def test_an_asynchronous_client_asks_several_questions_at_once() -> None:
    async def run() -> list[str]:
        waiting = asyncio.Event()
        posts = 0

        async def handle(request: httpx.Request) -> httpx.Response:
            nonlocal posts
            if request.method == "GET":
                return httpx.Response(200, json=CARD)
            posts += 1
            if posts == 3:  # nobody is answered before all have asked
                waiting.set()
            await waiting.wait()
            return httpx.Response(200, json=final())

        async with AsyncEdgeClient("http://server", transport=httpx.MockTransport(handle)) as client:
            answers = await asyncio.gather(*(client.ask(PICTURE, QUESTION) for _ in range(3)))
        return [answer.text for answer in answers]

    assert asyncio.run(asyncio.wait_for(run(), 30)) == ["17", "17", "17"]


class LaterPicture:
    """A picture that lies elsewhere: what it makes of its images comes later, unless it is out of reach."""

    def __init__(self, reachable: bool = True) -> None:
        self._picture = open_picture(PICTURE)
        self._reachable = reachable
        self.size = self._picture.size

    async def global_image(self, view: View, jpeg: JpegSettings) -> EncodedPicture:
        await asyncio.sleep(0)
        return self._picture.global_image(view, jpeg)

    async def local_image(self, region: Region, view: View, jpeg: JpegSettings) -> EncodedPicture:
        await asyncio.sleep(0)
        if not self._reachable:
            raise ClientError("the camera no longer has it")
        return self._picture.local_image(region, view, jpeg)


async def ask_later(server: ScriptedServer, picture: LaterPicture) -> EdgeAnswer:
    async with AsyncEdgeClient("http://server", transport=httpx.MockTransport(server)) as client:
        return await client.ask(picture, QUESTION)


def test_images_of_a_picture_that_lies_elsewhere_are_awaited(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), refined(), CARD, wants_region(), refined()]
    answer = asyncio.run(ask_later(server, LaterPicture()))
    assert answer.original == Size(400, 300)
    ask(open_picture(PICTURE), QUESTION)
    sent = [form(request)["image"].get_payload(decode=True) for request in server.requests if request.content]
    assert sent[:2] == sent[2:]


def test_an_image_that_cannot_be_had_leaves_the_first_answer(server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), final()]
    answer = asyncio.run(ask_later(server, LaterPicture(reachable=False)))
    assert (answer.text, answer.second_look_failed) == ("17", "the camera no longer has it")
