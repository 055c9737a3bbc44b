"""Replicas by Ray Serve: the whole command, with real engines, one of which is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from engine.chats import PATH, body, image_part, user
from engine.crowd import ALWAYS, ask_all, check_none_lost
from engine.fake_engine import jpeg
from engine.serving_harness import SPOKEN
from engine.test_keys import line, written
from repository import ROOT
from secondlook.edge import EdgeClient
from secondlook.edge.wire import SESSION_HEADER

pytestmark = pytest.mark.slow

QUESTIONS, EDGES = 200, 16
SECONDS = 300
COMMAND = "from secondlook.engine.cli import main; main()"
MARK = "SECONDLOOK_TEST_CLUSTER"


def started(*arguments: str, mark: str = "") -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "deploy", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, MARK: mark},
    )


def free_port() -> int:
    """One that nobody listens on; Ray takes no 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass(frozen=True)
class Cluster:
    url: str
    mark: str

    def replicas(self) -> list[int]:
        """Their processes, by the names that Ray gives them, and the environment that the test gives."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                named = (process / "cmdline").read_bytes().startswith(b"ray::ServeReplica")
                ours = named and f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes()
            except OSError:
                continue  # it has ended
            if ours:
                found.append(int(process.name))
        return found


@contextmanager
def running(replicas: int, *options: str) -> Iterator[Cluster]:
    mark, port = uuid.uuid4().hex, free_port()
    arguments = "--replicas", str(replicas), "--kv-cache-gb", "0.1", "--port", str(port), *options
    process = started(*arguments, mark=mark)
    assert process.stdout is not None
    said = process.stdout.readline()
    try:
        assert f"{replicas} replicas of demo answer on" in said, process.communicate(timeout=SECONDS)
        yield Cluster(f"http://127.0.0.1:{port}", mark)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running(2) as found:
        yield found


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the replicas in /proc")
def test_a_replica_that_is_killed_costs_no_answer(cluster: Cluster) -> None:
    killed: list[int] = []

    def kill() -> None:
        assert len(cluster.replicas()) == 2
        killed.append(cluster.replicas()[0])
        os.kill(killed[0], signal.SIGKILL)

    ended = ask_all(cluster.url, QUESTIONS, EDGES, kill)
    check_none_lost(ended, QUESTIONS)
    assert len(killed) == 1
    assert not set(killed) & set(cluster.replicas())
    again = sum(one.answer.asked_again for one in ended)
    assert again <= EDGES, "only those between their looks"


def test_the_whole_interface_is_there(cluster: Cluster) -> None:
    """Probes, errors of our own with their bodies, limits that hold before a body is read."""
    with httpx.Client(base_url=cluster.url) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        refused = client.get("/v1/model")
        assert (refused.status_code, refused.json()["error"]) == (400, "incompatible_protocol")
        headers = {"secondlook-protocol": "2.0", SESSION_HEADER: "a"}
        form = {"question": "What?", "width": "9", "height": "9"}
        picture = {"image": ("a.jpg", bytes(20_000_000), "image/jpeg")}
        refused = client.post("/v1/answers", data=form, files=picture, headers=headers)
        assert (refused.status_code, refused.json()["error"]) == (413, "body_too_large")
        unknown = client.delete("/v1/answers/nobody", headers=headers)
        assert (unknown.status_code, unknown.json()["error"]) == (404, "unknown_session")
    with EdgeClient(cluster.url) as edge:
        picture_file = ROOT / "docs" / "two-looks.jpg"
        answer = edge.ask(picture_file, "What number is on the red sign?", ALWAYS)
        assert (answer.looked_twice, answer.asked_again) == (True, False)


FORWARDED = {"x-forwarded-for": "10.1.2.3", "x-forwarded-proto": "https"}


def test_no_proxy_is_believed_that_is_not_named(cluster: Cluster) -> None:
    """Nor does Ray's own believe one: the scheme of a redirection tells."""
    moved = httpx.get(f"{cluster.url}/page", headers=FORWARDED)
    assert moved.headers["location"] == f"{cluster.url}/page/"


def test_keys_limits_origins_paths_and_proxies_are_those_of_a_server(tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", line("ann", "a"), line("bob", "b") + ":looks=1")
    options = ["--api-key-file", str(keys), "--key-looks-per-minute", "2", "--max-body-mb", "1"]
    options += ["--max-chat-body-mb", "1", "--allowed-media-domains", "localhost"]
    options += ["--cors-origin", "https://page.example", "--root-path", "/eyes"]
    options += ["--forwarded-allow-ips", "127.0.0.1"]
    form = {"question": "What?", "width": "400", "height": "300", "options": '{"second_look": "never"}'}
    picture = {"image": ("a.jpg", jpeg(), "image/jpeg")}
    with running(1, *options) as found, httpx.Client(base_url=found.url, timeout=SECONDS) as client:
        assert client.get("/eyes/readyz").json() == {"status": "ready"}
        assert client.get("/v1/model", headers=SPOKEN).status_code == 401
        moved = client.get("/eyes/page", headers={"authorization": "Bearer a"} | FORWARDED)
        assert moved.headers["location"].startswith("https://")
        preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
        allowed = client.options("/eyes/v1/answers", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"

        for key, looks in (("a", 2), ("b", 1)):
            headers = SPOKEN | {"authorization": f"Bearer {key}"}
            for _ in range(looks):
                asked = client.post("/v1/answers", data=form, files=picture, headers=headers)
                assert asked.status_code == 200, asked.text
            asked = client.post("/v1/answers", data=form, files=picture, headers=headers)
            assert (asked.status_code, asked.json()["error"]) == (429, "rate_limited")

        written(keys, line("cat", "c") + ":looks=100")  # read again
        client.headers["authorization"] = "Bearer c"
        large = client.post(PATH, json=body(user("What?", image_part(jpeg() + bytes(2_000_000)))))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        large = client.post(
            "/v1/answers",
            data=form,
            files={"image": ("a.jpg", bytes(2_000_000), "image/jpeg")},
            headers=SPOKEN,
        )
        assert (large.status_code, large.json()["error"]) == (413, "body_too_large")
        for host, told in (("other.example", "allowed-media-domains"), ("localhost", "not of the internet")):
            part = {"type": "image_url", "image_url": {"url": f"http://{host}/a.jpg"}}
            refused = client.post(PATH, json=body(user("What?", part)))
            assert refused.status_code == 400
            assert told in refused.json()["error"]["message"]


def test_the_header_is_the_one_that_ray_goes_by() -> None:
    code = "from ray.serve._private.constants import SERVE_SESSION_ID; print(SERVE_SESSION_ID)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == SESSION_HEADER


def test_the_file_for_a_cluster_is_one() -> None:
    """By the schema of Ray's own files, and by what the application takes."""
    code = """
import sys, yaml
from ray.serve.schema import ServeDeploySchema
from secondlook.engine.serve.ray_app import Deployed
text = open(sys.argv[1], encoding="utf-8").read()
(application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
print(application.import_path, Deployed.model_validate(application.args).replicas)
"""
    file = ROOT / "deploy" / "ray.yaml"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    found = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, env=paths, check=False
    )
    assert found.stdout == "secondlook.engine.serve.ray_app:app 2\n", found.stderr


def test_what_keeps_the_replicas_from_starting_is_said_in_one_line(tmp_path: Path) -> None:
    gone, port = tmp_path / "gone", free_port()
    process = started("--replicas", "1", "--model", str(gone), "--port", str(port))
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    error = told.splitlines()[-1]
    assert error.startswith(
        f"error: the replicas do not start (-v shows their logs): there is no model '{gone}'"
    )
    assert "Traceback" not in told


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, told = started("--port", str(port)).communicate(timeout=SECONDS)
    assert told.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert told.count("\n") == 1


def test_keys_that_cannot_be_read_are_told_before_anything_starts(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    _, told = started("--api-key-file", str(gone), "--port", str(free_port())).communicate(timeout=SECONDS)
    assert told == f"error: the keys of {gone} cannot be read: No such file or directory\n"


def test_an_encoder_that_cannot_be_is_told_before_anything_starts() -> None:
    _, told = started("--vision", "onnx", "--port", str(free_port())).communicate(timeout=SECONDS)
    assert told.startswith("error: --vision onnx needs --encoder FOLDER")
    assert told.count("\n") == 1
