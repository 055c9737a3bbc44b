"""Every request that the description of the interface lets one think of: Schemathesis finds no server error,
and no reply that is not as described. The page, which is not described, has a property here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.chats import PATH, image_part, user
from engine.checkpoints import IMAGE_SIZE, write_checkpoint
from engine.describing import CHECKS, check_described, schemathesis
from engine.fake_engine import jpeg
from engine.serving_harness import SECONDS, SPOKEN, listening
from engine.streaming import method
from properties import examples
from secondlook.engine import Engine, load_model
from secondlook.engine.decode.cache import CacheSettings
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import ServerSettings
from secondlook.engine.serve.stream_routes import streaming
from secondlook.engine.stream.service import StreamSettings

if TYPE_CHECKING:
    from schemathesis import Case
    from schemathesis.schemas import BaseSchema

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SETTINGS = ServerSettings(max_new_tokens=8, queue_size=64)
STREAMS = StreamSettings(method=method(), deadline=0.5, max_streams=1000)
WHOLE, SMALL, BROKEN = jpeg(IMAGE_SIZE, IMAGE_SIZE), jpeg(20, 10), jpeg()[:-9]
QUESTION = "What is the number on the sign?"
REAL = [
    ("/v1/answers", "POST"),
    ("/v1/answers/{session_id}/local", "POST"),
    ("/v1/answers/{session_id}", "DELETE"),
    ("/v1/streams", "POST"),
    ("/v1/streams/{stream_id}/frames", "POST"),
    ("/v1/streams/{stream_id}", "DELETE"),
    ("/v1/chat/completions", "POST"),
]
SIZE = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
REAL_FIELDS = {"question": QUESTION, **SIZE, "frame": json.dumps({"frame": 1, "captured": 0.2, **SIZE})}
schemathesis.openapi.media_type("image/jpeg", st.sampled_from([WHOLE, SMALL, BROKEN]))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site on a real engine: edges, OpenAI's clients, streams, metrics and the page."""
    folder: Path = tmp_path_factory.mktemp("model")
    engine = Engine(
        load_model(str(write_checkpoint(folder)), device="cpu"), cache=CacheSettings(most_slots=6)
    )
    with listening(create_app(engine, SETTINGS, streaming(STREAMS, None))) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers=SPOKEN, timeout=SECONDS) as opened:
        yield opened


@pytest.fixture(scope="module")
def described(url: str) -> BaseSchema:
    schema: BaseSchema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return schema


def send(case: Case, client: httpx.Client) -> httpx.Response:
    """A request with ids, a header and pictures that no description can have."""
    path = case.formatted_path
    if "session_id" in case.path:
        files, options = {"image": ("global.jpg", WHOLE, "image/jpeg")}, '{"second_look": "always"}'
        form = {"question": QUESTION, "width": "400", "height": "300", "options": options}
        reply = client.post("/v1/answers", data=form, files=files).raise_for_status().json()
        path = case.path.format(session_id=reply["session"]["id"])
    if "stream_id" in case.path:
        opened = client.post("/v1/streams", json={"question": QUESTION})
        assert opened.status_code == 200, opened.text
        path = case.path.format(stream_id=opened.json()["id"])
    body: dict[str, Any] = case.body if isinstance(case.body, dict) else {}
    if case.media_type == "multipart/form-data":
        body = body | {name: value for name, value in REAL_FIELDS.items() if name in body}
        parts = {
            name: (f"{name}.jpg", value, "image/jpeg") if isinstance(value, bytes) else (None, str(value))
            for name, value in body.items()
        }
        request = client.build_request(case.method, path, files=parts)
    else:
        if case.path == PATH:
            body = body | {"messages": [user(QUESTION, image_part(WHOLE))], "model": None}
        request = client.build_request(case.method, path, json=body or None)
    request.read()  # Schemathesis tells of it
    return client.send(request)


LIMITS = settings(
    deadline=None,
    derandomize=True,
    max_examples=examples(60),
    suppress_health_check=list(HealthCheck),
)


def test_requests_as_described_and_not_are_answered_as_described(url: str, tmp_path: Path) -> None:
    check_described(url, tmp_path, "--exclude-path-regex=/events$")  # which may go on for ever


@pytest.mark.parametrize(("path", "verb"), REAL)
def test_so_are_those_about_sessions_streams_and_pictures_that_there_are(
    described: BaseSchema, client: httpx.Client, path: str, verb: str
) -> None:
    seen: Counter[int] = Counter()

    @LIMITS
    @given(case=described[path][verb].as_strategy())
    def answered(case: Case) -> None:
        response = send(case, client)
        case.validate_response(response, CHECKS)
        seen[response.status_code] += 1

    answered()
    assert seen[200] > 0, seen


@LIMITS
@given(
    folder=st.sampled_from(["/", "/page/", "/docs/", "/v1/", "/v1/models/"]),
    name=st.text() | st.binary(max_size=300) | st.sampled_from(["../app.py", "page.js", "index.html/"]),
    verb=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
    headers=st.dictionaries(
        st.sampled_from(["range", "if-modified-since", "if-none-match", "if-range", "accept"]),
        st.from_regex(r"(bytes=)?[\x20-\x7e]{0,20}", fullmatch=True).map(str.strip),
    ),
)
def test_no_path_is_the_servers_fault(
    client: httpx.Client, folder: str, name: Any, verb: str, headers: dict[str, str]
) -> None:
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
    response = client.request(verb, folder + quote(raw, safe="/"), headers=headers)
    assert response.status_code < 500, response.text
