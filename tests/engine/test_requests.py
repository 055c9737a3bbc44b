from __future__ import annotations

import json
import logging

import httpx
import pytest

from engine.fake_engine import FakeEngine
from engine.serving_harness import first_look, second_look, served, session
from secondlook.engine.cli.logs import configure_logging
from secondlook.engine.serve.requests import shown_path

HEADER = "x-request-id"


@pytest.mark.parametrize("path", ["/healthz", "/v1/answers/nobody", "/nowhere"])
def test_every_reply_has_the_requests_id(path: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get(path, headers={HEADER: "camera-7:42"})).headers[HEADER] == "camera-7:42"
        made = {(await client.get(path)).headers[HEADER] for _ in range(3)}
        assert len(made) == 3

    served(scenario)


def test_a_reply_to_an_unforeseen_error_has_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        monkeypatch.setattr("secondlook.engine.serve.service.TwoLookService.check_ready", None)
        response = await client.get("/readyz", headers={HEADER: "mine"})
        assert (response.status_code, response.headers[HEADER]) == (500, "mine")

    served(scenario)


@pytest.mark.parametrize("bad", ["two words", "a" * 129, '"; drop', ""])
def test_an_id_that_could_forge_a_line_is_replaced(bad: str) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz", headers={HEADER: bad})).headers[HEADER] != bad

    served(scenario)


def test_neither_questions_nor_sessions_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    names = []

    async def scenario(client: httpx.AsyncClient) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # the client's own log, in this process only
        question = "unsure of Eleanor's pills"
        names.extend([await session(client, question), await session(client, question)])
        await second_look(client, names[0])
        await second_look(client, names[0])  # answered already
        await client.delete(f"/v1/answers/{names[1]}")
        await client.get(f"/v1//answers//{names[1]}?session={names[1]}")
        await first_look(client, "Eleanor " * 1000)
        await first_look(client, question, width="Eleanor", options='{"Eleanor": 1}')

    served(scenario)
    for name in names:
        assert name not in caplog.text
        assert f"/v1/answers/{name[:6]}..." in caplog.text
    assert "Eleanor" not in caplog.text


def test_a_path_is_logged_in_one_line() -> None:
    assert shown_path("/a\nb\x1b[31m") == "/a%0Ab%1B%5B31m"
    assert len(shown_path("/x" * 1000)) == 200
    assert shown_path("/docs/swagger-ui-bundle.js") == "/docs/swagger-ui-bundle.js"


def test_a_line_says_its_request_and_is_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr("warnings.formatwarning", None)

    async def scenario(client: httpx.AsyncClient) -> None:
        await first_look(client, "broken")
        await client.get("/healthz", headers={HEADER: "mine"})

    for log_format in ("json", "text"):
        configure_logging(1, "json" if log_format == "json" else "text")
        served(scenario, FakeEngine())
        logging.captureWarnings(False)
        lines = capsys.readouterr().err.splitlines()
        if log_format == "json":
            told = [json.loads(line) for line in lines]
            assert told[-1]["request_id"] == "mine"
            assert "/healthz: 200 in" in told[-1]["message"]
            failure = next(one for one in told if one["level"] == "error")
            assert "secret detail" in failure["exception"]
            assert failure["request_id"] == told[-2]["request_id"]
        else:
            assert lines[-1].endswith(" [mine]")
            assert "INFO secondlook.engine.serve.requests: " in lines[-1]
