"""What both clients do when requests fail: try again, give up, or let the first answer stand."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from edge.conftest import Ask
from edge.support import (
    CARD,
    FIRST,
    NOW,
    SECOND,
    ScriptedServer,
    encoded,
    final,
    gradient,
    refined,
    refusal,
    wants_region,
)
from secondlook.edge import (
    AnswerOptions,
    ClientError,
    ClientSettings,
    ConnectionFailedError,
    Region,
    RequestRefusedError,
    ServerBusyError,
    UnexpectedReplyError,
)

PICTURE = encoded(gradient(400, 300), quality=95)
QUESTION = "What number is on the red sign?"


# --- repetitions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.ReadTimeout, httpx.WriteError],
)
def test_lost_connections_are_tried_again(
    trouble: type[httpx.RequestError], ask: Ask, server: ScriptedServer
) -> None:
    server.steps = [trouble, CARD, trouble, trouble, final()]
    assert ask(PICTURE, QUESTION).text == "17"
    assert server.slept == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_tried_again_when_it_says(status: int, ask: Ask, server: ScriptedServer) -> None:
    date = NOW.replace(second=45).strftime("%a, %d %b %Y %H:%M:%S GMT")
    server.steps = [
        CARD,
        refusal(status, "the queue is full", **{"retry-after": "3"}),
        refusal(status, "the queue is full", **{"retry-after": date}),
        refusal(status, "the queue is full"),
        final(),
    ]
    assert ask(PICTURE, QUESTION).text == "17"
    assert server.slept == [3.0, 40.0, 1.0]


def test_repetitions_count_as_traffic(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, httpx.ConnectError, refusal(503, "starting"), final()]
    answer = ask(PICTURE, QUESTION)
    assert answer.bytes_up == (sum(len(request.content) for request in server.requests[2:]),)
    assert answer.bytes_down[0] > len(httpx.Response(200, json=final()).content)


def test_after_all_repetitions_the_reason_is_raised(ask: Ask, server: ScriptedServer) -> None:
    settings = ClientSettings(retries=2)
    server.steps = [httpx.ConnectError] * 3
    with pytest.raises(
        ConnectionFailedError, match=r"cannot connect to http://server:8000/: .*tried 3 times"
    ):
        ask(PICTURE, QUESTION, settings=settings)
    server.steps = [CARD, *[refusal(503, "shutting down")] * 3]
    with pytest.raises(ServerBusyError, match=r"busy \(503\): shutting down \(tried 3 times\)"):
        ask(PICTURE, QUESTION, settings=settings)
    assert server.steps == []


def test_a_wait_longer_than_the_budget_is_not_begun(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, refusal(429, "the queue is full", **{"retry-after": "3600"})]
    with pytest.raises(ServerBusyError, match=r"next wait of 3.6e\+03 s is longer"):
        ask(PICTURE, QUESTION)
    assert server.slept == []


@pytest.mark.parametrize("gone", [httpx.ConnectError, refusal(503, "the model is being loaded")])
def test_a_server_may_restart_for_a_minute(gone: Any, ask: Ask, server: ScriptedServer) -> None:
    settings = ClientSettings()
    server.away = gone
    for seconds in (17, settings.wait_budget - settings.longest_wait - 1):
        server.back_at, server.steps = server.clock() + seconds, [CARD, final()]
        assert ask(PICTURE, QUESTION).text == "17"
        assert 0 <= server.clock() - server.back_at < settings.longest_wait + 3


def test_one_budget_bounds_all_waiting_of_a_question(
    ask: Ask, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What failed attempts take counts too: a second each here. The user is told of it once."""
    settings = ClientSettings(wait_budget=12, first_wait=2, wait_factor=1)
    server.steps = [
        httpx.ConnectError,
        httpx.ReadError,
        CARD,
        refusal(503, "starting"),
        *[httpx.ReadError] * 2,
    ]
    with pytest.raises(ConnectionFailedError, match="tried 3 times; the next wait of 2 s is longer"):
        ask(PICTURE, QUESTION, settings=settings)
    assert server.slept == [2, 2, 2, 2]
    assert server.steps == []
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].endswith("asking again in 2.00 s, for up to 11 s")


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_gateway_that_lost_its_server_is_tried_again(status: int, ask: Ask, server: ScriptedServer) -> None:
    lost = httpx.Response(status, text="<html>no upstream</html>")
    server.steps = [CARD, lost, final()]
    assert ask(PICTURE, QUESTION).text == "17"
    server.steps = [CARD, lost]
    with pytest.raises(ServerBusyError, match=rf"a gateway does not reach its server \({status}\)") as caught:
        ask(PICTURE, QUESTION, settings=ClientSettings(retries=0))
    assert caught.value.status == status


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422, 500])
def test_a_refusal_is_not_tried_again(status: int, ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, refusal(status, "the question is empty;\nask something")]
    with pytest.raises(RequestRefusedError, match="the question is empty; ask something") as caught:
        ask(PICTURE, QUESTION)
    assert (caught.value.status, caught.value.reason) == (status, "the question is empty; ask something")
    assert server.slept == []


def test_an_empty_question_is_not_sent(ask: Ask, server: ScriptedServer) -> None:
    with pytest.raises(ClientError, match="the question is empty"):
        ask(PICTURE, " \n")
    assert server.requests == []


# --- servers that are none --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, text="<html>hello</html>"),
        httpx.Response(200, json={"name": "demo"}),
        httpx.Response(200, json={**CARD, "crop_size": -1}),
        httpx.Response(204),
    ],
)
def test_another_kind_of_server_is_recognised(
    reply: httpx.Response, ask: Ask, server: ScriptedServer
) -> None:
    server.steps = [reply]
    with pytest.raises(UnexpectedReplyError, match=r"ModelCard .* is this a secondlook server"):
        ask(PICTURE, QUESTION)


def test_an_address_with_the_path_of_the_protocol_gets_a_hint(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [refusal(404, "Not Found")]
    with pytest.raises(RequestRefusedError, match=r"/v1/v1/model; the server's address goes without /v1"):
        ask(PICTURE, QUESTION, address="http://server:8000/v1")


def test_refusals_of_another_kind_of_server_keep_their_name(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [httpx.Response(404, text="<html>\nno such page</html>")]
    with pytest.raises(RequestRefusedError, match=r"\(404\): Not Found"):
        ask(PICTURE, QUESTION)
    server.steps = [httpx.Response(301, headers={"location": "https://server:8000/v1/model"})]
    with pytest.raises(RequestRefusedError, match=r"\(301\): it points to https://server:8000/v1/model"):
        ask(PICTURE, QUESTION)


def test_no_reply_fills_the_memory(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, httpx.Response(200, content=b" " * 16_000_001)]
    with pytest.raises(UnexpectedReplyError, match="http://server:8000/v1/answers answers with more than"):
        ask(PICTURE, QUESTION)


# --- second looks that fail -------------------------------------------------------------------------------

GIVEN_UP = httpx.Response(204)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([refusal(409, "answered already"), GIVEN_UP], r"\(409\): answered already"),
        ([refusal(410, "the session has expired")], r"\(410\): the session has expired"),
        ([refusal(422, "not the region asked for"), GIVEN_UP], r"\(422\)"),
        ([httpx.ReadError, refusal(409, "answered already"), refusal(409, "?")], "answered already"),
        ([refusal(429, "later", **{"retry-after": "31"}), GIVEN_UP], "longer than there is time for"),
        ([httpx.Response(200, text="?"), refusal(404, "gone")], "AnswerReply"),
        ([wants_region(), GIVEN_UP], "third look"),
    ],
)
def test_the_first_answer_stands_marked(steps: Any, reason: str, ask: Ask, server: ScriptedServer) -> None:
    """Also if the session would end before the wait (31 s of 30), or if the reply was lost (409) for good.

    A session that may still be waiting is given up, whatever comes of that.
    """
    server.steps = [CARD, wants_region(), *steps]
    answer = ask(PICTURE, QUESTION, settings=ClientSettings(retries=4))
    assert server.steps == []
    assert answer.text == "17"
    assert not answer.refined
    assert not answer.looked_twice
    assert answer.second is None
    assert answer.second_look_failed is not None
    assert "\n" not in answer.second_look_failed
    assert re.search(reason, answer.second_look_failed)
    assert answer.region == Region(100, 50, 300, 150)
    assert answer.pixels == (96 * 96, 96 * 96)


def test_a_final_answer_whose_reply_was_lost_is_told_again(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), httpx.ReadError, refusal(409, "answered already"), refined()]
    answer = ask(PICTURE, QUESTION)
    assert server.asked[-1] == "DELETE /v1/answers/abc"
    assert (answer.text, answer.refined, answer.looked_twice) == (SECOND["text"], True, True)
    assert answer.second_look_failed is None
    assert len(answer.server_seconds) == 2


@pytest.mark.parametrize("trouble", [[refusal(410, "expired")], [httpx.ReadError] * 10])
def test_a_first_answer_that_was_not_complete_is_completed(
    trouble: Any, ask: Ask, server: ScriptedServer
) -> None:
    whole = final(decision="unsure", answer={**FIRST, "text": "17, on the left"})
    server.steps = [CARD, wants_region(answer={**FIRST, "complete": False}), *trouble, whole]
    answer = ask(PICTURE, QUESTION, settings=ClientSettings(retries=4))
    assert server.asked[-1] == "DELETE /v1/answers/abc"
    assert server.requests[-1].extensions["timeout"]["read"] == 60.0  # not the little of a mere farewell
    assert answer.text == "17, on the left"
    assert answer.second_look_failed is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"region": {"left": 0, "top": 0, "right": 401, "bottom": 10}}, "of a picture of 400x300"),
        ({"region": {"left": 9, "top": 0, "right": 9, "bottom": 10}}, "is empty"),
        ({"region": None}, "does not say where"),
        ({"session": None}, "does not say where"),
    ],
)
def test_impossible_requests_for_a_region_are_not_met(
    changes: Any, reason: str, ask: Ask, server: ScriptedServer
) -> None:
    server.steps = [CARD, wants_region(**changes), GIVEN_UP]
    answer = ask(PICTURE, QUESTION)
    assert server.asked[2:] == ([] if changes.get("session", True) is None else ["DELETE /v1/answers/abc"])
    assert answer.text == "17"
    assert answer.second_look_failed is not None
    assert reason in answer.second_look_failed
    assert answer.pixels == (96 * 96, 0)
    assert answer.bytes_up[1] == 0


def test_a_second_look_is_tried_again_too(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), httpx.ConnectError, refusal(503, "busy"), refined()]
    answer = ask(PICTURE, QUESTION)
    assert answer.refined
    assert answer.second_look_failed is None


def test_no_wait_goes_beyond_the_sessions_end(ask: Ask, server: ScriptedServer) -> None:
    """Time spent in calls counts: a second each."""
    busy = refusal(429, "busy", **{"retry-after": "2"})
    server.steps = [CARD, wants_region(session={"id": "abc", "expires_in": 4.5}), busy, busy, GIVEN_UP]
    answer = ask(PICTURE, QUESTION)
    assert answer.second_look_failed is not None
    assert "longer than there is time for" in answer.second_look_failed
    assert server.slept == [2.0]
    assert server.steps == []


# --- questions that are lost between the looks ------------------------------------------------------------

GONE = refusal(404, "no such session")
LOST = [
    [GONE],
    [httpx.ReadError] * 5,
    [refusal(503, "shutting down")] * 5,
    [httpx.Response(502, text="<html>")] * 5,
    [*[httpx.Response(502, text="<html>")] * 2, GONE],
]


def names(server: ScriptedServer) -> list[str | None]:
    """The questions' names, in the order in which they were first used."""
    return list(dict.fromkeys(one.headers.get("x-session-id") for one in server.requests))


def test_all_requests_of_a_question_have_one_name(ask: Ask, server: ScriptedServer) -> None:
    """Which cannot be guessed; it is another for each question, and the card needs none."""
    server.steps = [CARD, wants_region(), refusal(429, "full"), refusal(422, "not it"), GIVEN_UP]
    ask(PICTURE, QUESTION)
    card, first, *further = (request.headers.get("x-session-id") for request in server.requests)
    assert card is None
    assert re.fullmatch("[0-9a-f]{48}", first)
    assert further == [first] * 3
    server.steps = [CARD, final()]
    ask(PICTURE, QUESTION)
    assert server.requests[-1].headers["x-session-id"] != first


@pytest.mark.parametrize("trouble", LOST)
def test_a_lost_question_is_asked_again(trouble: Any, ask: Ask, server: ScriptedServer) -> None:
    other = wants_region(session={"id": "other", "expires_in": 30.0})
    server.steps = [CARD, wants_region(), *trouble, other, refined()]
    answer = ask(PICTURE, QUESTION, settings=ClientSettings(retries=4))
    assert server.steps == []
    assert (answer.text, answer.refined, answer.second_look_failed) == ("71", True, None)
    assert answer.asked_again
    assert server.asked[1] == server.asked[-2] == "POST /v1/answers"
    assert server.asked[-1] == "POST /v1/answers/other/local"
    assert len(names(server)) == 3  # the card's, which is none, and one for each asking
    assert answer.to_dict()["asked_again"] is True


def test_what_asking_again_cost_is_counted(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), refusal(404, "no such session"), wants_region(), refined()]
    answer = ask(PICTURE, QUESTION)
    sent = [len(request.content) for request in server.requests[1:]]
    assert answer.bytes_up == (sent[0] + sent[2], sent[1] + sent[3])
    assert answer.pixels == (2 * 96 * 96, 2 * 96 * 96)
    assert (answer.seconds.first_look, answer.seconds.second_look) == (2, 2)
    assert len(answer.server_seconds) == 2


def test_a_question_asked_again_may_be_sure(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), refusal(404, "no such session"), final()]
    answer = ask(PICTURE, QUESTION)
    assert (answer.decision, answer.second_look_failed, answer.asked_again) == ("sure", None, True)
    assert (answer.region, len(answer.bytes_up), len(answer.server_seconds)) == (None, 2, 1)


@pytest.mark.parametrize("trouble", LOST)
@pytest.mark.parametrize("then", [[refusal(422, "another model")], [httpx.ConnectError] * 5])
def test_if_that_fails_too_the_first_answer_stands(
    then: Any, trouble: Any, ask: Ask, server: ScriptedServer
) -> None:
    away = [httpx.ReadError] if "503" in str(trouble) or "502" in str(trouble[-1]) else []
    server.steps = [CARD, wants_region(), *trouble, *then, *away]
    answer = ask(PICTURE, QUESTION, settings=ClientSettings(retries=4))
    assert server.steps == []
    assert (answer.text, answer.looked_twice, answer.asked_again) == ("17", False, True)
    assert answer.second_look_failed is not None
    assert re.search("no such session|was lost|503|502", answer.second_look_failed)


def test_a_question_is_asked_again_once(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(), GONE, wants_region(answer={**FIRST, "text": "18"}), GONE]
    answer = ask(PICTURE, QUESTION)
    assert server.steps == []
    assert (answer.text, answer.asked_again) == ("18", True)
    assert answer.second_look_failed is not None


CUT_SHORT = wants_region(answer={**FIRST, "text": "17, on", "complete": False})


@pytest.mark.parametrize("then", [[CUT_SHORT, GONE], [refusal(422, "?")]])
def test_a_first_answer_cut_short_is_asked_for_alone(then: Any, ask: Ask, server: ScriptedServer) -> None:
    """The last of its requests is one look, which has no session that can be lost."""
    whole = final(decision="disabled", answer={**FIRST, "text": "17, on the left"})
    server.steps = [CARD, CUT_SHORT, GONE, *then, whole]
    answer = ask(PICTURE, QUESTION, AnswerOptions(second_look="always", max_new_tokens=9))
    assert server.steps == []
    assert (answer.text, answer.looked_twice, answer.asked_again) == ("17, on the left", False, True)
    assert "no such session" in str(answer.second_look_failed)
    assert server.asked[-1] == "POST /v1/answers"
    assert b'{"second_look":"never","max_new_tokens":9}' in server.requests[-1].content


def test_an_answer_that_nobody_can_complete_is_an_error(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, CUT_SHORT, *[httpx.ReadError] * 30]
    with pytest.raises(ConnectionFailedError):
        ask(PICTURE, QUESTION, settings=ClientSettings(retries=4))


def test_session_names_cannot_lead_elsewhere(ask: Ask, server: ScriptedServer) -> None:
    server.steps = [CARD, wants_region(session={"id": "../a?b", "expires_in": 30.0}), refined()]
    ask(PICTURE, QUESTION)
    assert server.requests[2].url.raw_path == b"/v1/answers/..%2Fa%3Fb/local"
