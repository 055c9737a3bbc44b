"""The gateway answers every request that its description lets one think of as described: no server error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from edge.snapshot_camera import snapshot_camera
from engine.checkpoints import write_checkpoint
from engine.describing import CHECKS, check_described, schemathesis
from engine.gatewaying import gateway, sight
from engine.serving_harness import listening
from engine.test_keys import line, written
from properties import examples
from secondlook.engine import Engine, load_model
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import GatewaySettings, ServerSettings

if TYPE_CHECKING:
    from schemathesis import Case

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

KEY = "Authorization: Bearer a"
LIMITS = settings(
    deadline=None, derandomize=True, max_examples=examples(60), suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = write_checkpoint(tmp_path_factory.mktemp("model"))
    engine = Engine(load_model(str(folder), device="cpu"))
    with listening(create_app(engine, ServerSettings(max_new_tokens=8, queue_size=64))) as url:
        yield url


@pytest.fixture
def client(server: str, tmp_path: Path) -> Iterator[httpx.Client]:
    bounds = GatewaySettings(api_key_file=written(tmp_path / "keys", line("ann", "a")))
    with (
        snapshot_camera(sight) as camera,
        gateway(f"http://{camera.address}", server, bounds=bounds) as found,
    ):
        yield found


def test_requests_as_described_and_not_are_answered_as_described(
    client: httpx.Client, tmp_path: Path
) -> None:
    check_described(str(client.base_url).rstrip("/"), tmp_path, "--header", KEY)


@pytest.mark.parametrize(("path", "verb"), [("/v1/ask", "POST"), ("/image.jpg", "GET")])
def test_so_are_those_about_a_frame_that_is_held(client: httpx.Client, path: str, verb: str) -> None:
    described = schemathesis.openapi.from_url(str(client.base_url.join("/openapi.json")))
    client.headers["authorization"] = KEY.removeprefix("Authorization: ")
    seen: Counter[int] = Counter()

    @LIMITS
    @given(case=described[path][verb].as_strategy())
    def answered(case: Case) -> None:
        frame = client.get("/image.jpg").headers["x-frame"]
        body = case.body | {"frame": frame} if isinstance(case.body, dict) else None
        query = {**(case.query or {}), "frame": frame}
        request = client.build_request(case.method, case.formatted_path, params=query, json=body)
        request.read()  # Schemathesis tells of it
        response = client.send(request)
        case.validate_response(response, CHECKS)
        seen[response.status_code] += 1

    answered()
    assert seen[200] > 0, seen
