"""What is deployed by Ray Serve has the settings of `secondlook serve`; without a cluster."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from engine.chats import PATH, body, image_part, user
from engine.fake_engine import FakeEngine, jpeg
from engine.serving_harness import SECONDS, Scenario, assert_error, first_look, visitor
from engine.test_keys import line, written
from secondlook.edge.errors import SettingsError
from secondlook.engine.cli.deploy import deploy
from secondlook.engine.cli.options import BudgetedPolicy, ModelChoice
from secondlook.engine.cli.serve import serve
from secondlook.engine.cli.serving import RequestChoice, ServerChoice
from secondlook.engine.cli.upstream import UpstreamChoice
from secondlook.engine.encoders import EncoderChoice
from secondlook.engine.errors import ModelNotReadyError, ShuttingDownError
from secondlook.engine.method.budget import BudgetSettings
from secondlook.engine.opening import EngineOptions
from secondlook.engine.serve.settings import ChatLimits, KeyLimits, ServerSettings, SessionLimits

pytest.importorskip("ray")

from secondlook.engine.serve.ray_app import Deployed, Replica

ORIGIN = "https://page.example"
ASKED: dict[str, Any] = {
    "queue_size": 2,
    "max_body_bytes": 100_000,
    "sessions": {"seconds": 7.0},
    "chat": {"max_body_bytes": 5000, "allowed_media_domains": ["Pictures.example"]},
    "grace_seconds": 3,
    "root_path": "/eyes",
    "api_key_file": "keys",
    "key_limits": {"looks_per_minute": 2},
    "forwarded_allow_ips": ["10.0.0.1"],
    "cors_origins": [ORIGIN],
}
MEANT = ServerSettings(
    queue_size=2,
    max_body_bytes=100_000,
    sessions=SessionLimits(seconds=7.0),
    chat=ChatLimits(max_body_bytes=5000, allowed_media_domains=("pictures.example",)),
    grace_seconds=3.0,
    root_path="/eyes",
    api_key_file=Path("keys"),
    key_limits=KeyLimits(looks_per_minute=2),
    forwarded_allow_ips=("10.0.0.1",),
    cors_origins=(ORIGIN,),
)


def options(command: Any) -> set[str]:
    return set(inspect.signature(command).parameters)


def test_the_command_has_the_options_of_serve_but_those_of_connections() -> None:
    connections = {"max_connections", "header_seconds", "body_seconds", "metrics_port", "tls_cert", "tls_key"}
    assert connections | {"host", "port"} == options(ServerChoice) - options(RequestChoice)
    assert options(serve) - options(deploy) == connections | options(UpstreamChoice) | {"log_format"}
    assert options(deploy) - options(serve) == {"replicas", "cpus", "gpus"}


def test_without_options_both_have_the_same_settings() -> None:
    assert RequestChoice().settings() == ServerChoice().settings() == Deployed().server == ServerSettings()


def test_a_replicas_engine_has_the_encoder_the_budget_and_the_rest() -> None:
    """Of an even share of the bytes, but of the whole rate."""
    asked = {"vision": "openvino", "encoder": "exported", "precision": "float32", "replicas": 4}
    made = Deployed.model_validate(asked | {"bytes_per_second": 1000, "kv_cache_gb": 0.5}).engine()
    assert made == EngineOptions(
        budget=BudgetSettings(bytes_per_second=250.0),
        kv_cache_gb=0.5,
        encoder=EncoderChoice(vision="openvino", folder=Path("exported"), precision="float32"),
    )
    rated = Deployed(replicas=4, retransmission_rate=0.2).engine()
    assert rated.budget == BudgetSettings(retransmission_rate=0.2)
    chosen = ModelChoice(profile="here", trust_plan=True, vision="tensorrt", encoder=Path("plan"))
    assert Deployed(**vars(chosen), **vars(BudgetedPolicy())).engine() == chosen.options()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"vision": "onnx"}, "--vision onnx needs --encoder FOLDER"),
        ({"vision": "opencv"}, "not 'opencv'"),
        ({"backend": "openai"}, "not for replicas"),
        ({"encoder": "a"}, "add --vision"),
        ({"retransmission_rate": 0.1, "bytes_per_second": 1.0}, "either a retransmission rate or bytes"),
        ({"retransmission_rate": 1.0}, "retransmission_rate should be less than 1"),
        ({"bytes_per_second": -1.0}, "bytes_per_second should be greater than 0"),
    ],
)
def test_an_engine_that_cannot_be_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Deployed.model_validate(given).engine()


@pytest.mark.parametrize("given", [MEANT, ASKED, json.dumps(ASKED)])
def test_a_file_or_a_command_line_of_rays_says_them_too(given: object) -> None:
    assert Deployed.model_validate({"server": given}).server == MEANT


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"speed": 1}, "unknown key speed"),
        ({"queue_size": 0}, "queue_size should be greater than 0"),
        ({"root_path": "eyes"}, "should begin with a slash"),
        ({"chat": {"allowed_media_domains": ["a.example/b"]}}, "which is no host's name"),
        ({"connections": {"most": 5}}, "connections and tls are Ray's own"),
        ({"tls": {"certificate": "a", "key": "b"}}, "connections and tls are Ray's own"),
        ("queue_size", "JSON"),
    ],
)
def test_what_cannot_be_is_told(given: object, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Deployed.model_validate({"server": given})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr("secondlook.engine.opening.load_engine", lambda _options: fake)
    monkeypatch.setattr("secondlook.engine.threads.configure_threads", lambda: None)
    return fake


class Elsewhere:
    """Processes that compute for an engine."""

    died = False

    def wake(self) -> None:
        pass

    def check(self) -> None:
        if self.died:
            raise ModelNotReadyError("the processes have died")

    def close(self) -> None:
        pass


def built(replica: Replica) -> FastAPI:
    app = replica.__serve_build_asgi_app__()
    gc.unfreeze()
    return app


def replica(**settings: Any) -> FastAPI:
    return built(Replica(Deployed.model_validate({"server": settings})))


def ask(app: FastAPI, scenario: Scenario, address: str = "127.0.0.1") -> None:
    async def main() -> None:
        async with app.router.lifespan_context(app), visitor(app, address) as client:
            await asyncio.wait_for(scenario(client), SECONDS)

    asyncio.run(main())


@pytest.mark.usefixtures("engine")
def test_a_replica_keeps_keys_and_limits(tmp_path: Path) -> None:
    lines = line("ann", "a"), line("bob", "b") + ":looks=1", line("cat", "c") + ":looks=9"
    app = replica(**ASKED | {"api_key_file": str(written(tmp_path / "keys", *lines))})

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/eyes/healthz")).status_code == 200
        assert_error(await first_look(client), 401, "unauthorized")
        for key, looks in (("a", 2), ("b", 1)):
            client.headers["authorization"] = f"Bearer {key}"
            for _ in range(looks):
                assert (await first_look(client, "sure")).status_code == 200
            assert_error(await first_look(client, "sure"), 429, "rate_limited")
        client.headers["authorization"] = "Bearer c"
        large = await client.post(PATH, json=body(user("sure", image_part(jpeg() + bytes(5000)))))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        allowed = await client.get("/healthz", headers={"origin": ORIGIN})
        assert allowed.headers["access-control-allow-origin"] == ORIGIN

    ask(app, scenario)


@pytest.mark.parametrize(("address", "client"), [("10.0.0.1", "10.1.2.3"), ("10.0.0.2", "10.0.0.2")])
def test_a_replica_believes_the_proxies_that_are_named(engine: FakeEngine, address: str, client: str) -> None:
    async def scenario(visiting: httpx.AsyncClient) -> None:
        visiting.headers["x-forwarded-for"] = "10.1.2.3"
        assert (await first_look(visiting, "sure")).status_code == 200

    ask(replica(forwarded_allow_ips=["10.0.0.1"]), scenario, address)
    assert engine.clients == [client]


@pytest.mark.usefixtures("engine")
def test_a_replica_that_stops_is_none_to_ray() -> None:
    replica = Replica(Deployed())
    app = built(replica)

    async def scenario(_client: httpx.AsyncClient) -> None:
        await replica.check_health()
        app.state.service.begin_shutdown()
        with pytest.raises(ShuttingDownError):
            await replica.check_health()

    ask(app, scenario)


def test_a_replica_whose_engines_processes_died_is_none_to_ray(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Elsewhere()
    monkeypatch.setattr(engine, "outside", elsewhere)
    replica = Replica(Deployed())

    async def scenario(client: httpx.AsyncClient) -> None:
        await replica.check_health()
        elsewhere.died = True
        with pytest.raises(ModelNotReadyError, match="have died"):
            await replica.check_health()
        assert (await client.get("/healthz")).status_code == 200

    ask(built(replica), scenario)
