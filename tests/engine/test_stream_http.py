"""Sites, clouds and cameras on real connections: what a cloud does or leaves undone, and who watches."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engine.fake_engine import LOCAL_VIEW, ORIGINAL, REGION, FakeEngine, jpeg
from engine.serving_harness import SECONDS, SPOKEN, assert_error, listening, serving
from engine.streaming import PATIENT, Watching, method, opened, run, send, shown, site, streams
from secondlook.edge.errors import SettingsError
from secondlook.edge.imaging import decode_jpeg, open_picture
from secondlook.edge.sources import open_source
from secondlook.edge.stream import EdgeStream
from secondlook.edge.wire_stream import FrameReply, StreamCard, StreamEvent, StreamSummary
from secondlook.engine.results import LocalImage, Pending
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.stream.cloud import HttpCloud
from secondlook.engine.stream.keyframes import KeyFrames
from secondlook.engine.stream.local import stream_locally
from secondlook.engine.stream.service import StreamSettings
from secondlook.engine.stream.state import Method

BUSY = method(key_frames=KeyFrames("busy"))


def pictures(count: int) -> list[Image.Image]:
    random = np.random.default_rng(3)
    size = (ORIGINAL.width, ORIGINAL.height)
    coarse = [random.integers(0, 256, (9, 11, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each in coarse]


class Seeing(FakeEngine):
    """Keeps what it was shown of regions."""

    def __init__(self) -> None:
        super().__init__()
        self.closer: list[Image.Image] = []

    def prepare_local(
        self, pending: Pending, local_image: Image.Image, *, jpeg: bytes | None = None
    ) -> LocalImage:
        self.closer.append(local_image)
        return super().prepare_local(pending, local_image)


def test_camera_site_and_cloud_in_one_process() -> None:
    """The cloud's second look gets its region from the camera, pixel for pixel, and teaches later frames."""
    taken, replies, ends, large = pictures(6), list[FrameReply](), list[StreamSummary](), Seeing()

    def until_taught() -> Iterator[Image.Image]:
        for picture in cycle(taken):
            if replies and replies[-1].source == "history":
                return
            yield picture

    async def scenario() -> None:
        await stream_locally(
            FakeEngine(),
            large,
            open_source(until_taught(), paced=False),
            "unsure",
            StreamSettings(method=BUSY, deadline=PATIENT),
            0.0,
            0.02,
            lambda _, reply: replies.append(reply),
            lambda *_: pytest.fail("no picture is damaged"),
            ends.append,
        )
        [summary] = ends
        assert summary.frames == summary.answered == len(replies)
        assert summary.cloud_counted >= 1
        assert summary.cloud_answers + summary.cloud_lost == summary.cloud_calls
        assert summary.bytes_to_cloud > 0

    run(scenario)
    told = replies[-1]
    assert (told.answer, told.uncertainty) == ("second to unsure", 0.1)
    assert told.history is not None
    assert told.history.by == "cloud"
    assert told.age is not None
    assert 0 < told.age < 10
    expected = [
        decode_jpeg(open_picture(each).local_image(REGION, LOCAL_VIEW).jpeg).tobytes() for each in taken
    ]
    assert large.closer
    assert all(image.tobytes() in expected for image in large.closer)
    assert any(reply.wanted for reply in replies)


def test_a_late_cloud_is_late() -> None:
    replies = list[FrameReply]()

    async def scenario() -> None:
        await stream_locally(
            FakeEngine(),
            FakeEngine(),
            open_source(pictures(4), paced=False),
            "sure",
            StreamSettings(method=BUSY, deadline=30.0),
            60.0,
            0.05,
            lambda _, reply: replies.append(reply),
            lambda *_: None,
            lambda _: None,
        )

    run(scenario)
    assert [reply.source for reply in replies] == ["picture"] * 4


@contextmanager
def stalled() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def dead() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def another() -> Iterator[str]:
    """A server of something else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})

    with listening(app) as url:  # type: ignore[arg-type]
        yield url


@contextmanager
def dripping() -> Iterator[str]:
    """A server whose reply never ends, and never stops coming."""
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        taken = []
        listener.settimeout(0.02)
        while not over.is_set():
            with suppress(TimeoutError):
                taken.append(listener.accept()[0])
                taken[-1].sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for connection in taken:
                with suppress(OSError):
                    connection.sendall(b" ")
        for connection in taken:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(SECONDS)


@contextmanager
def nameless() -> Iterator[str]:
    """A server whose name is looked up for ever, and takes a thread of asyncio's each time."""
    over, look_up = threading.Event(), socket.getaddrinfo

    def looking_up(host: Any, *arguments: Any, **more: Any) -> Any:
        if host in ("cloud.invalid", b"cloud.invalid"):
            assert over.wait(SECONDS)
            raise socket.gaierror("no such name")
        return look_up(host, *arguments, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", looking_up)
        try:
            yield "http://cloud.invalid"
        finally:
            over.set()


@pytest.mark.parametrize(
    ("cloud", "reason"),
    [
        (stalled, "in time"),
        (dead, "connect"),
        (another, "is this a secondlook server"),
        (dripping, "in time"),
        (nameless, "in time"),
    ],
)
def test_no_cloud_holds_a_frame(cloud: Any, reason: str) -> None:
    chosen = method(key_frames=KeyFrames("busy"), history_seconds=0.4, in_flight=20)

    async def scenario() -> None:
        with cloud() as url:
            async with streams(cloud=HttpCloud(url, 0.4), method=chosen) as (service, client):
                name = await opened(client)
                watching = Watching(service, name)
                lost, number = list[str](), 0
                while len(lost) < 20:
                    reply = await shown(client, name, number)
                    assert (reply.status, reply.source) == ("answered", "picture")
                    assert len(service._open[name]._asking) <= 20
                    lost = [event.reason for event in watching.seen if event.kind == "lost"]
                    number += 1
                service.close(name)
                assert all(reason in each or "within 0.4 s" in each for each in lost)

    run(scenario)


def test_who_watches_reads_what_the_camera_is_told() -> None:
    """A reply with all that may be in it, views too."""
    cloud = create_app(FakeEngine())
    with (
        listening(cloud) as above,
        listening(site(FakeEngine(), HttpCloud(above, 10.0), method=BUSY)) as url,
        httpx.Client(base_url=url, headers=SPOKEN, timeout=SECONDS) as client,
    ):
        reply = client.post("/v1/streams", json={"question": "unsure", "deadline": 30})
        path = f"/v1/streams/{StreamCard.read(reply.content).id}"
        with client.stream("GET", f"{path}/events") as events:
            told = iter(events.iter_lines())
            for number in range(5000):
                header = {"frame": number, "captured": number / 1000, "width": 400, "height": 300}
                files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
                sent = httpx.post(
                    f"{url}{path}/frames",
                    data={"frame": json.dumps(header)},
                    files=files,
                    headers=SPOKEN,
                    timeout=SECONDS,
                )
                answered = FrameReply.read(sent.content)
                if answered.wanted:
                    break
            else:
                pytest.fail("the cloud wants nothing")
            seen = (StreamEvent.read(line.encode()) for line in told)
            assert answered in (event.reply for event in seen)


def test_a_stream_is_watched_over_http() -> None:
    cloud = create_app(FakeEngine())
    with listening(cloud) as above, listening(site(FakeEngine(), HttpCloud(above, 10.0), method=BUSY)) as url:
        lines = list[StreamEvent]()
        ready = threading.Event()
        with httpx.Client(base_url=url, headers=SPOKEN, timeout=SECONDS) as client:
            reply = client.post("/v1/streams", json={"question": "sure", "deadline": 30})
            card = StreamCard.read(reply.content)
            assert (card.deadline, card.idle_seconds, card.history_seconds) == (30.0, 30.0, 10.0)

            def watch() -> None:
                path = f"{url}/v1/streams/{card.id}/events"
                with httpx.stream("GET", path, headers=SPOKEN, timeout=SECONDS) as events:
                    assert events.headers["content-type"] == "application/x-ndjson"
                    ready.set()
                    lines.extend(StreamEvent.read(line.encode()) for line in events.iter_lines())

            watching = threading.Thread(target=watch)
            watching.start()
            assert ready.wait(SECONDS)
            for number in range(5000):
                header = {"frame": number, "captured": number / 1000, "width": 400, "height": 300}
                files = {"image": ("a.jpg", jpeg(), "image/jpeg")}
                path = f"/v1/streams/{card.id}/frames"
                answered = client.post(path, data={"frame": json.dumps(header)}, files=files)
                assert answered.status_code == 200
                if FrameReply.read(answered.content).source == "history":
                    break
            else:
                pytest.fail("the cloud taught nothing")
            summary = StreamSummary.read(client.delete(f"/v1/streams/{card.id}").content)
            assert_error(client.delete(f"/v1/streams/{card.id}"), 404, "unknown_stream")
            watching.join(SECONDS)
        assert summary.frames == summary.answered == number + 1
        assert summary.cloud_answers >= 1
        kinds = [event.kind for event in lines]
        assert kinds[-1] == "ended"
        assert {"asked", "cloud", "answered"} <= set(kinds)
        assert all(event.reply is not None for event in lines if event.kind == "answered")


def test_a_camera_of_the_edge_is_answered_over_http() -> None:
    with listening(site(FakeEngine())) as url, EdgeStream(url, "unsure") as camera:
        for at, picture in enumerate(pictures(3)):
            reply = camera.show(picture, captured=at / 5)
            assert (reply.frame, reply.status, reply.answer) == (at, "answered", "first to unsure")
        summary = camera.close()
    assert summary is not None
    assert summary.answered == 3


@pytest.mark.parametrize(
    ("body", "name", "told"),
    [
        ("{}", "empty_question", "question"),
        ('{"question": "what?", "deadline": 0}', "invalid_field", "deadline: Input should be greater than 0"),
        ('{"question": "what?", "deadline": 61}', "invalid_field", "deadline: "),
        ('{"question": "what?", "deadline": NaN}', "invalid_field", "deadline: Input should be a finite"),
        ('{"question": "what?", "fps": 5}', "invalid_field", "fps: "),
        ('{"question": 7}', "invalid_field", "question: "),
        ("{", "invalid_field", "the body is no JSON, from its character 1 on: Expecting property name"),
        ('"what?"', "invalid_field", "the body: Input should be a valid dictionary"),
        ("", "invalid_field", "the body: Field required"),
    ],
)
def test_wrong_options_are_an_error(body: str, name: str, told: str) -> None:
    async def scenario() -> None:
        async with streams() as (_, client):
            kind = {"content-type": "application/json"}
            sent = await client.post("/v1/streams", content=body, headers=kind)
            assert_error(sent, 422, name, told)

    run(scenario)


def test_bodies_are_checked_before_they_are_read() -> None:
    async def scenario() -> None:
        server = ServerSettings(max_body_bytes=50_000)
        async with streams(server=server) as (_, client):
            unspoken = httpx.AsyncClient(transport=client._transport, base_url="http://server")
            assert_error(await unspoken.post("/v1/streams", json={}), 400, "incompatible_protocol")
            form = await client.post("/v1/streams", data={"question": "what?"})
            assert_error(form, 415, "unsupported_content_type")
            long = await client.post("/v1/streams", json={"question": "?" * 70_000})
            assert_error(long, 413, "body_too_large")
            name = await opened(client)
            large = await send(client, name, 0, {"detail0": b"0" * 60_000}, details=[{"frame": 0}])
            assert_error(large, 413, "body_too_large", "50000 bytes")
            assert_error(await send(client, "other", 0), 404, "unknown_stream")
            assert_error(await client.get("/v1/streams/other/events"), 404, "unknown_stream")
            plain = {"image": ("a.txt", jpeg(), "text/plain")}
            header = {"frame": 1, "captured": 0.2, "width": 400, "height": 300}
            path = f"/v1/streams/{name}/frames"
            kind = await client.post(path, data={"frame": json.dumps(header)}, files=plain)
            assert_error(kind, 415, "unsupported_content_type")
            assert_error(await client.post(path, data={"frame": "{}"}, files=plain), 422, "invalid_field")
            assert (await shown(client, name, 1)).status == "answered"

    run(scenario)


def test_the_interface_is_described() -> None:
    async def scenario() -> None:
        async with streams() as (_, client):
            described = (await client.get("/openapi.json")).json()
            paths = described["paths"]
            assert set(paths["/v1/streams/{stream_id}/frames"]["post"]["responses"]) == {
                *("200", "400", "404", "408", "413", "415", "422", "429", "500", "503")
            }
            events = paths["/v1/streams/{stream_id}/events"]["get"]["responses"]["200"]
            assert "application/x-ndjson" in events["content"]
            assert "FrameReply" in described["components"]["schemas"]
        async with serving(create_app(FakeEngine())) as client:  # a server without streams has none of it
            assert "/v1/streams" not in (await client.get("/openapi.json")).json()["paths"]

    run(scenario)


def test_defaults_are_the_methods() -> None:
    assert StreamSettings().method == Method()
    with pytest.raises(SettingsError, match="deadline"):
        StreamSettings(deadline=0.0)
