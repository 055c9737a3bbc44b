"""Who may ask a gateway: pages of its own, by its own names, and whoever has a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge.snapshot_camera import SnapshotCamera, snapshot_camera
from engine.fake_engine import FakeEngine
from engine.gatewaying import ask, gateway, sight
from engine.serving_harness import assert_error, listening
from engine.test_keys import line, written
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.settings import GatewaySettings


@pytest.fixture
def camera() -> Iterator[SnapshotCamera]:
    with snapshot_camera(sight) as found:
        yield found


@pytest.fixture
def server() -> Iterator[str]:
    with listening(create_app(FakeEngine())) as url:
        yield url


@pytest.fixture
def client(camera: SnapshotCamera, server: str) -> Iterator[httpx.Client]:
    with gateway(
        f"http://{camera.address}", server, bounds=GatewaySettings(allowed_hosts=("Eyes.example.",))
    ) as found:
        yield found


def replies(client: httpx.Client, headers: dict[str, str]) -> list[httpx.Response]:
    """To all that is served."""
    asked = client.post("/v1/ask", json={"question": "sure"}, headers=headers)
    paths = ("/image.jpg", "/healthz", "/readyz", "/openapi.json")
    return [asked, *(client.get(path, headers=headers) for path in paths)]


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://eyes.example:81", "host": "eyes.example:80"},
    ],
)
def test_a_page_of_another_site_may_not_ask(
    camera: SnapshotCamera, client: httpx.Client, headers: dict[str, str]
) -> None:
    for reply in replies(client, headers):
        assert_error(reply, 403, "foreign_page")
    assert not camera.shown
    own = {"sec-fetch-site": "same-origin", "origin": str(client.base_url).rstrip("/")}
    assert client.get("/image.jpg", headers=own).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example",
        "rebound.example:8000",
        "notlocalhost",
        "localhost.example",
        "eyes.example.rebound.example",
        "127.0.0.1.rebound.example",
        "user@eyes.example@rebound.example",
        "[",
        "[::1",
        "x" * 5000,
    ],
)
def test_a_name_that_is_not_the_gateways_is_refused(
    camera: SnapshotCamera, client: httpx.Client, host: str
) -> None:
    """By which a page of another site passes for one of the gateway's (DNS rebinding)."""
    for reply in replies(client, {"host": host, "sec-fetch-site": "same-origin", "origin": f"http://{host}"}):
        assert_error(reply, 403, "foreign_page", "--allowed-host")
    assert not camera.shown


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8000",
        "camera.localhost",
        "localhost.",
        "eyes.example",
        "EYES.example:81",
        "192.168.1.9:8000",
        "[::1]:8000",
        "[fe80::1]",
    ],
)
def test_by_its_own_names_and_by_addresses_it_may_be_asked(client: httpx.Client, host: str) -> None:
    for reply in replies(client, {"host": host, "origin": f"http://{host}"}):
        assert reply.status_code == 200, reply.text


def test_it_may_be_asked_by_any_name_where_that_is_chosen(camera: SnapshotCamera, server: str) -> None:
    bounds = GatewaySettings(allowed_hosts=("*",))
    with gateway(f"http://{camera.address}", server, bounds=bounds) as client:
        assert all(each.status_code == 200 for each in replies(client, {"host": "what.example"}))
        assert_error(client.get("/healthz", headers={"origin": "http://a.example"}), 403, "foreign_page")


def test_its_pictures_are_for_its_own_pages(client: httpx.Client) -> None:
    whole = client.get("/image.jpg")
    crop = client.get("/image.jpg", params={"frame": whole.headers["x-frame"], "crop": "0x0x32x32"})
    for reply in (whole, crop):
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["cache-control"] == "no-store"


def test_who_has_no_key_is_asked_for_one(camera: SnapshotCamera, server: str, tmp_path: Path) -> None:
    keys = written(tmp_path / "keys", line("ann", "a"), line("bob", "b") + ":looks=1")
    with gateway(f"http://{camera.address}", server, bounds=GatewaySettings(api_key_file=keys)) as client:
        for headers in ({}, {"authorization": "Bearer c"}):
            asked, shown, *_ = replies(client, headers)
            for reply in (asked, shown, client.get("/nothing", headers=headers)):
                assert_error(reply, 401, "unauthorized", "Authorization: Bearer KEY")
                assert reply.headers["www-authenticate"] == "Bearer"
        described = client.get("/openapi.json").json()
        assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert {"401", "403"} <= set(described["paths"]["/v1/ask"]["post"]["responses"])

        client.headers["authorization"] = "Bearer a"
        assert ask(client, "unsure").json()["looked_twice"]
        assert client.get("/image.jpg").status_code == 200
        client.headers["authorization"] = "Bearer b"
        assert ask(client, "sure").status_code == 200
        refused = ask(client, "sure")
        assert_error(refused, 429, "rate_limited", "'bob'")
        assert int(refused.headers["retry-after"]) > 0
        assert_error(client.get("/image.jpg", headers={"host": "rebound.example"}), 403, "foreign_page")
