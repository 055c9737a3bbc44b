"""What the page says when something is not as it should be: camera, file, server, time."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from playwright.sync_api import Browser, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.browsing import CAMERA, INSECURE, PICTURE, answered, ask, browsing, choose, trouble
from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from engine.serving_harness import SECONDS, SPOKEN, image_part, listening
from secondlook.benchmarks.browser import chromium_path
from secondlook.engine.serve.app import create_app

pytestmark = pytest.mark.needs_chromium


def test_an_insecure_page_has_no_camera_and_says_why(browser: Browser, fake_url: str) -> None:
    with browsing(browser, fake_url.replace("127.0.0.1", INSECURE)) as page:
        page.get_by_role("button", name="Use camera").click()
        assert "secure pages only: https" in trouble(page)
        choose(page, PICTURE)  # files it may have
        ask(page, "sure")
        assert answered(page) == "first to sure"


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (("--use-fake-device-for-media-stream", "--deny-permission-prompts"), "The camera was not allowed"),
        ((CAMERA[0] + "=device-count=0", CAMERA[1]), "No camera was found"),
    ],
)
def test_a_camera_that_cannot_be_had_is_told_of(
    browser: Browser, fake_url: str, switches: tuple[str, ...], words: str
) -> None:
    arguments = ["--no-sandbox", *switches]
    other = browser.browser_type.launch(executable_path=chromium_path(), args=arguments)
    with browsing(other, fake_url) as page:
        page.get_by_role("button", name="Use camera").click()
        assert words in trouble(page)
    other.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "a video"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"II*\0\x08\0\0\0", "a TIFF picture"),
        (PICTURE[:30], "damaged"),
        (b"hello, I am a text", "not a picture that this browser can read"),
        (b"", "empty"),
    ],
)
def test_a_file_that_is_no_picture_is_named(browser: Browser, fake_url: str, data: bytes, words: str) -> None:
    with browsing(browser, fake_url) as page:
        choose(page, data, "strange.heic", "application/octet-stream")
        assert words in trouble(page)
        choose(page, PICTURE)
        page.locator("#shown").wait_for()
        assert page.get_by_role("alert").is_hidden()


def test_a_question_without_a_picture_asks_for_one(browser: Browser, fake_url: str) -> None:
    with browsing(browser, fake_url) as page:
        ask(page, "anything")
        assert "Choose a picture first" in trouble(page)


def test_a_busy_server_is_waited_for(browser: Browser, fake: FakeEngine, fake_url: str) -> None:
    def other() -> int:
        data = {"question": "sure", "width": ORIGINAL.width, "height": ORIGINAL.height}
        with httpx.Client(base_url=fake_url, headers=SPOKEN, timeout=SECONDS) as client:
            return client.post("/v1/answers", data=data, files=image_part(jpeg())).status_code

    with browsing(browser, fake_url, refusals=True) as page, ThreadPoolExecutor() as threads:
        fake.gate.clear()
        others = [threads.submit(other) for _ in range(2)]
        assert fake.entered.acquire(timeout=SECONDS)
        choose(page, PICTURE)
        ask(page, "sure")
        page.get_by_text(re.compile(r"The server is busy; asking again in \d+ s")).wait_for()
        fake.gate.set()
        assert answered(page) == "first to sure"
        assert [each.result(SECONDS) for each in others].count(200) >= 1


@pytest.mark.parametrize("question", ["anything", "long"])
def test_a_second_look_that_comes_too_late_leaves_the_first_answer(
    browser: Browser, fake: FakeEngine, fake_url: str, question: str
) -> None:
    """Which is told whole, if it was not complete."""

    def too_late(route: Route) -> None:
        name = route.request.url.removesuffix("/local")
        fake.rest.set()
        assert httpx.delete(name, headers=SPOKEN, timeout=SECONDS).status_code == 200
        route.continue_()

    with browsing(browser, fake_url, refusals=True) as page:
        page.route("**/local", too_late)
        choose(page, PICTURE)
        ask(page, question)
        assert answered(page) == f"first to {question}" + (", and more" if question == "long" else "")
        assert "came too late" in trouble(page)
        assert "the first answer stands" in page.locator("#decision").inner_text()


def test_a_model_that_fails_is_told_of(browser: Browser, fake: FakeEngine, fake_url: str) -> None:
    fake.break_second = True
    with browsing(browser, fake_url, refusals=True) as page:
        choose(page, PICTURE)
        ask(page, "anything")
        assert answered(page) == "first to anything"
        assert "The model failed on this question" in trouble(page)
        ask(page, "broken")
        page.get_by_text("Try another picture or question.", exact=False).wait_for()
        assert page.locator("#answer").is_hidden()
        ask(page, "endless")
        page.get_by_text("does not fit the context").wait_for()  # the server's own words


def test_a_server_that_is_gone_is_missed(browser: Browser, fake: FakeEngine) -> None:
    with listening(create_app(fake)) as address:
        opened = browsing(browser, address, refusals=True)
        page = opened.__enter__()
        choose(page, PICTURE)
    ask(page, "anything")
    assert "The server does not answer" in trouble(page)
    opened.__exit__(None, None, None)


def test_a_question_can_be_stopped(browser: Browser, fake: FakeEngine, fake_url: str) -> None:
    with browsing(browser, fake_url, refusals=True) as page:
        fake.gate.clear()
        choose(page, PICTURE)
        ask(page, "sure")
        assert fake.entered.acquire(timeout=SECONDS)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Ask").wait_for()
        assert page.get_by_role("alert").is_hidden()
        fake.gate.set()
        ask(page, "sure")
        assert answered(page) == "first to sure"


@pytest.mark.parametrize("whole", [True, False])
def test_a_question_whose_server_is_lost_is_asked_again_once(
    browser: Browser, fake_url: str, whole: bool
) -> None:
    """The second look meets a server that knows nothing, once, or both times that it is asked."""
    names, lost = list[str | None](), iter([True, not whole])

    def local(route: Route) -> None:
        names.append(route.request.all_headers().get("x-session-id"))
        if next(lost):
            told = {"error": "unknown_session", "message": "this session does not exist"}
            route.fulfill(status=404, json=told)
        else:
            route.continue_()

    with browsing(browser, fake_url, refusals=True) as page:
        page.route("**/local", local)
        choose(page, PICTURE)
        ask(page, "anything")
        assert answered(page) == ("second to anything" if whole else "first to anything")
    assert len(set(names)) == len(names) == 2


@pytest.mark.parametrize(
    ("path", "status"), [("**/v1/answers", 502), ("**/local", 500), ("**/local", 502), ("**/local", 504)]
)
def test_what_a_gateway_says_of_its_server_is_waited_for(
    browser: Browser, fake_url: str, path: str, status: int
) -> None:
    """Once, in its own words; then it finds the server."""
    names = list[str | None]()

    def through(route: Route) -> None:
        names.append(route.request.all_headers().get("x-session-id"))
        if len(names) == 1:
            route.fulfill(status=status, content_type="text/html", body="<h1>Bad Gateway</h1>")
        else:
            route.continue_()

    with browsing(browser, fake_url, refusals=True) as page:
        page.route(path, through)
        choose(page, PICTURE)
        ask(page, "anything")
        assert answered(page) == "second to anything"
        assert page.get_by_role("alert").is_hidden()
    assert len(names) == 2
    assert len(set(names)) == 1, "the same question"


def test_a_reply_that_breaks_off_is_no_reply(browser: Browser, fake: FakeEngine) -> None:
    cut = iter([True, False, False])

    class Cutting:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def sent(message: Message) -> None:
                if message["type"] == "http.response.body":
                    message = {**message, "body": message["body"][:20]}
                await send(message)

            answering = scope["type"] == "http" and scope["path"] == "/v1/answers"
            await self._app(scope, receive, sent if answering and next(cut) else send)

    app = create_app(fake)
    app.add_middleware(Cutting)
    with listening(app) as address, browsing(browser, address, refusals=True) as page:
        choose(page, PICTURE)
        ask(page, "anything")
        assert answered(page) == "second to anything"
    assert next(cut) is False, "two first looks, of which one was cut"


@pytest.mark.parametrize("status", [404, 502, 503])
@pytest.mark.parametrize("whole", [True, False])
def test_a_first_answer_stands_where_its_server_is_lost_twice_if_it_was_whole(
    browser: Browser, fake: FakeEngine, fake_url: str, status: int, whole: bool
) -> None:
    """Of `long` the page has seen a part; the server, which has the rest, is gone."""
    asked = list[str]()

    def lost(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.continue_()
            return
        fake.rest.set()  # for the server; the page does not hear of it
        if status == 404:
            route.fulfill(
                status=404, json={"error": "unknown_session", "message": "there is no such session"}
            )
        else:
            route.fulfill(status=status, headers={"retry-after": "1000"}, body="Bad Gateway")

    question = "anything" if whole else "long"
    with browsing(browser, fake_url, refusals=True) as page:
        page.route(re.compile("/v1/answers"), lost)
        choose(page, PICTURE)
        ask(page, question)
        if whole:
            assert answered(page) == f"first to {question}"
            assert "The first answer stands" in trouble(page)
        else:
            assert "lost before its answer was whole" in trouble(page)
            assert page.locator("#answer").is_hidden()
