"""The gateway, between a real camera and a real server with the embedded model."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from edge.cameras import PASSWORD, USER, mjpeg_camera
from edge.snapshot_camera import Fault, SnapshotCamera, coded, snapshot_camera
from engine.gatewaying import ask, gateway, sight
from engine.serving_harness import SECONDS, assert_error, listening
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge import AnswerOptions, EdgeClient
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app

ALWAYS = {"second_look": "always"}
QUESTION = "What number is on the red sign?"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with listening(create_app(Engine(load_model("demo")))) as url:
        yield url


@pytest.fixture
def camera() -> Iterator[SnapshotCamera]:
    with snapshot_camera(sight) as found:
        yield found


@pytest.fixture
def client(camera: SnapshotCamera, server: str) -> Iterator[httpx.Client]:
    with gateway(f"http://{camera.address}", server) as found:
        yield found


def opened(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content)).convert("RGB")


# --- both looks at one picture, whatever the camera sees meanwhile -----------------------------------------


def test_both_looks_are_at_one_frame_while_the_camera_sees_others(
    camera: SnapshotCamera, client: httpx.Client, server: str
) -> None:
    right = 0
    with EdgeClient(server) as edge:
        for _ in range(4):
            number = len(camera.shown) + (not camera.shown)  # the first request shows that it is no stream
            (question, *_), jpeg = SignsPicture("test", 7, number % 4).questions, coded(sight(number))
            told = ask(client, question.text, options=ALWAYS).json()
            assert camera.shown[-1] == (number, "")
            answer = edge.ask(jpeg, question.text, AnswerOptions(second_look="always"))
            assert (told["text"], told["region"]) == (answer.text, answer.to_dict()["region"])
            assert told["looked_twice"]
            assert not told["crop_of_later_frame"]
            assert told["crop_age"] is None
            assert 0 < told["age"] < SECONDS
            right += told["text"] == question.answer
            seen = opened(client.get("/image.jpg", params={"frame": told["frame"]}))
            assert seen.tobytes() == opened_bytes(jpeg).tobytes()
    assert right >= 3


def opened_bytes(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def test_a_held_frame_can_be_asked_about_again(camera: SnapshotCamera, client: httpx.Client) -> None:
    one = ask(client, QUESTION).json()
    shown = len(camera.shown)
    other = ask(client, QUESTION, frame=one["frame"]).json()
    assert (other["frame"], other["text"]) == (one["frame"], one["text"])
    assert other["age"] > one["age"]
    assert len(camera.shown) == shown


def test_a_camera_may_make_the_crop_itself_of_a_later_moment(server: str) -> None:
    def small(number: int) -> Image.Image:
        whole = sight(2)
        return whole.resize((whole.width // 2, whole.height // 2))

    question = SignsPicture("test", 7, 2).questions[0]
    with (
        snapshot_camera(small) as near,
        snapshot_camera(lambda _number: sight(2)) as camera,
        gateway(f"http://{near.address}", server, crops=f"http://{camera.address}") as client,
    ):
        told = ask(client, question.text, options=ALWAYS).json()
        assert told["second_look_failed"] is None
        assert told["text"] == question.answer
        assert told["crop_of_later_frame"]
        assert told["crop_age"] < told["age"]
        assert told["original"] == {"width": sight(2).width, "height": sight(2).height}
        left, top, width, height = map(int, camera.shown[-1][1].split("x"))
        region = told["region"]
        assert left % 16 == top % 16 == 0
        assert left <= region["left"] < left + 16
        assert top <= region["top"] < top + 16
        assert region["right"] <= left + width < region["right"] + 16
        assert region["bottom"] <= top + height < region["bottom"] + 16

        camera.crops = False
        told = ask(client, question.text, options=ALWAYS).json()
        assert "it does not crop, or not so" in told["second_look_failed"]
        assert not told["crop_of_later_frame"]
        camera.statuses = [200, 501]  # it says how large it is, then it refuses
        told = ask(client, question.text, options=ALWAYS).json()
        assert "answered 501" in told["second_look_failed"]


def test_a_camera_whose_whole_picture_has_another_shape_is_told(camera: SnapshotCamera, server: str) -> None:
    with (
        snapshot_camera(lambda _number: Image.new("RGB", (400, 100))) as near,
        gateway(f"http://{near.address}", server, crops=f"http://{camera.address}") as client,
    ):
        assert_error(ask(client, QUESTION), 503, "camera_failed", "they do not show the same")


# --- pictures ----------------------------------------------------------------------------------------------


def test_the_newest_frame_comes_as_the_camera_sent_it(camera: SnapshotCamera, client: httpx.Client) -> None:
    reply = client.get("/image.jpg")
    number, _ = camera.shown[-1]
    assert opened(reply).tobytes() == opened_bytes(coded(sight(number))).tobytes()
    assert reply.headers["content-type"] == "image/jpeg"
    assert float(reply.headers["x-frame-age"]) >= 0
    assert client.get("/image.jpg").headers["x-frame"] != reply.headers["x-frame"]


def test_a_crop_is_of_the_frame_that_is_named(camera: SnapshotCamera, client: httpx.Client) -> None:
    whole = client.get("/image.jpg")
    client.get("/image.jpg")
    asked = {"frame": whole.headers["x-frame"], "crop": "105x70x200x150"}
    cut = client.get("/image.jpg", params=asked)
    assert cut.headers["x-crop-applied"] == "96x64x209x156"
    assert cut.headers["x-frame"] == whole.headers["x-frame"]
    expected = np.asarray(opened(whole).crop((96, 64, 305, 220)), int)
    assert np.abs(np.asarray(opened(cut), int) - expected).mean() < 3


@pytest.mark.parametrize("crop", ["1x2x3", "0x0x0x5", "-1x0x5x5", "0x0x100000x5", "0x0x5x5x5", "x" * 500])
def test_a_crop_that_is_none_is_told(client: httpx.Client, crop: str) -> None:
    assert_error(client.get("/image.jpg", params={"crop": crop}), 422, "invalid_field", "as 640x320x160x160")


def test_a_frame_that_is_not_held_is_told(client: httpx.Client) -> None:
    told = "is not held: one is given up after 30 s"
    assert_error(client.get("/image.jpg", params={"frame": "feed"}), 404, "unknown_frame", told)
    assert_error(ask(client, QUESTION, frame="feed"), 404, "unknown_frame", told)


def test_questions_under_way_are_bounded(camera: SnapshotCamera, server: str) -> None:
    with gateway(f"http://{camera.address}", server, most=1) as client:
        ask(client, QUESTION)
        camera.faults = ["waits"]
        first = list[httpx.Response]()
        thread = threading.Thread(target=lambda: first.append(ask(client, QUESTION)))
        thread.start()
        assert camera.waiting.wait(SECONDS)
        refused = ask(client, QUESTION)
        assert_error(refused, 429, "queue_full", "1 questions are under way")
        assert refused.headers["retry-after"] == "1"
        camera.go_on.set()
        thread.join()
        assert first[0].status_code == 200


# --- what goes wrong ---------------------------------------------------------------------------------------


def test_a_camera_dies_and_comes_back(server: str) -> None:
    with snapshot_camera(sight) as camera:
        address = f"http://{camera.address}"
        port = int(camera.address.rpartition(":")[2].partition("/")[0])
        with gateway(address, server) as client:
            assert ask(client, QUESTION).status_code == 200
            frame = client.get("/image.jpg").headers["x-frame"]
            ready = {"status": "ready", "camera": "reachable", "server": "reachable"}
            assert client.get("/readyz").json() == ready
            camera.stop()
            assert_error(ask(client, QUESTION), 503, "camera_failed", "cannot connect to")
            lost = client.get("/readyz").json()
            assert lost["error"] == "not_ready"
            assert lost["message"].startswith("the camera: cannot connect to")
            assert lost["server"] == "reachable"
            assert client.get("/image.jpg", params={"frame": frame}).status_code == 200
            assert ask(client, QUESTION, frame=frame).status_code == 200
            assert client.get("/healthz").json() == {"status": "alive"}
            with snapshot_camera(sight, port):
                assert ask(client, QUESTION).status_code == 200
                assert client.get("/readyz").json() == ready


def test_a_server_that_is_away_is_told_apart(camera: SnapshotCamera) -> None:
    with gateway(f"http://{camera.address}", NOBODY) as client:
        assert_error(ask(client, QUESTION), 503, "server_unreachable", "cannot connect to")
        lost = client.get("/readyz")
        assert lost.status_code == 503
        assert lost.json()["message"].startswith("the server: cannot connect to")
        assert lost.json()["camera"] == "reachable"
        assert client.get("/image.jpg").status_code == 200


def test_what_is_no_server_of_this_software_is_told(camera: SnapshotCamera) -> None:
    with gateway(f"http://{camera.address}", f"http://{camera.address.partition('/')[0]}") as client:
        assert_error(ask(client, QUESTION), 502, "server_refused")
        assert client.get("/readyz").status_code == 503


@pytest.mark.parametrize("fault", ["breaks off", "is no JPEG", "is truncated"])
def test_a_picture_that_cannot_be_used_is_the_cameras_fault(
    camera: SnapshotCamera, client: httpx.Client, fault: Fault
) -> None:
    camera.faults = [fault, fault]  # the first shows that it is no stream
    assert_error(ask(client, QUESTION), 503, "camera_failed")
    assert ask(client, QUESTION).status_code == 200


def test_what_is_no_camera_is_told(camera: SnapshotCamera, client: httpx.Client) -> None:
    camera.content_type = "text/html"
    assert_error(ask(client, QUESTION), 503, "camera_failed", "it answered text/html")
    camera.statuses = [404]
    assert_error(ask(client, QUESTION), 503, "camera_failed", "answered 404")


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_credentials_are_given_and_never_shown(
    camera: SnapshotCamera, server: str, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "secondlook")
    camera.scheme = scheme
    told = ""
    with gateway(f"http://{USER}:{PASSWORD}@{camera.address}", server) as client:
        assert ask(client, QUESTION).status_code == 200
        camera.statuses = [500]
        told += client.get("/readyz").text + ask(client, QUESTION).text
    with gateway(f"http://{USER}:{PASSWORD}not@{camera.address}", server) as client:
        refused = ask(client, QUESTION)
        assert_error(refused, 503, "camera_failed", "a user's name and a password are refused")
        told += refused.text + client.get("/readyz").text
    assert PASSWORD not in told + caplog.text
    assert USER not in told + caplog.text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "Field required"),
        (b"{", "the body is no JSON"),
        (b'{"question": ""}', "at least 1 character"),
        (b'{"question": "  "}', "the question is empty"),
        (b'{"question": "?", "speed": 1}', "speed"),
        (b'{"question": "?", "options": {"threshold": -1}}', "threshold"),
        (b'{"question": "' + b"?" * 60_000 + b'"}', "characters"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told(client: httpx.Client, body: bytes, told: str) -> None:
    assert_error(client.post("/v1/ask", content=body), 422, "invalid_field", told)


def test_a_body_that_is_too_large_is_not_read(client: httpx.Client) -> None:
    assert_error(client.post("/v1/ask", content=b" " * 70_000), 413, "body_too_large")


# --- other cameras -----------------------------------------------------------------------------------------


def test_of_a_stream_the_newest_frame_is_taken(server: str) -> None:
    with mjpeg_camera() as camera, gateway(f"http://{camera.address}", server) as client:
        camera.show(coded(sight(0)))
        one = client.get("/image.jpg")
        again = client.get("/image.jpg")  # there is no newer one
        assert one.headers["x-frame"] == again.headers["x-frame"]
        camera.show(coded(sight(1)))
        newer = client.get("/image.jpg")
        assert opened(newer).tobytes() == opened_bytes(coded(sight(1))).tobytes()
        told = ask(client, QUESTION, options=ALWAYS, frame=one.headers["x-frame"]).json()
        assert told["looked_twice"]
        camera.hang_up()


def test_a_stream_that_has_fallen_silent_is_told(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secondlook.engine.gateway.camera._WAIT_SECONDS", 0.01)
    with mjpeg_camera() as camera, gateway(f"http://{camera.address}", server) as client:
        camera.show(coded(sight(0)))
        assert ask(client, QUESTION).status_code == 200
        monkeypatch.setattr("secondlook.engine.gateway.camera._FRESH_SECONDS", 0.01)
        assert_error(ask(client, QUESTION), 503, "camera_failed", "has given no new frame in time")


def test_a_camera_that_takes_too_long_is_told_and_its_frame_is_the_next_ones(
    camera: SnapshotCamera, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.faults = ["waits"]
    with monkeypatch.context() as short:
        short.setattr("secondlook.engine.gateway.camera._OPENING_SECONDS", 0.01)
        assert_error(ask(client, QUESTION), 503, "camera_failed", "has given no frame within 0.01 s")
        assert camera.waiting.wait(SECONDS)
    camera.go_on.set()
    assert ask(client, QUESTION).status_code == 200


def test_after_a_picture_above_a_limit_the_camera_is_asked_again(server: str) -> None:
    pictures = [Image.new("RGB", (16, 12)), Image.new("RGB", (16, 12)), Image.new("RGB", (12_000, 6000))]
    with (
        snapshot_camera(lambda number: pictures[number] if number < 3 else sight(0)) as camera,
        gateway(f"http://{camera.address}", server) as client,
    ):
        assert client.get("/image.jpg").status_code == 200
        assert_error(client.get("/image.jpg"), 503, "camera_failed", "the limit is 64000000")
        assert client.get("/image.jpg").status_code == 200
