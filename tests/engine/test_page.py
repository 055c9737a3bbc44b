"""The page at `/`, in a browser and on the embedded models: both looks, the camera, failures in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route

from engine.browsing import (
    CAMERA,
    DESKTOP,
    INSECURE,
    PHONE,
    SWITCHES,
    answered,
    ask,
    browsing,
    choose,
    encoded,
    form,
    quarters,
    trouble,
)
from engine.fake_engine import ORIGINAL, FakeEngine, jpeg
from engine.serving_harness import SECONDS, SPOKEN, image_part, listening
from secondlook.benchmarks.browser import chromium_path, headless
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge import EdgeClient
from secondlook.edge.wire import PROTOCOL
from secondlook.engine.engine import Engine
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.page import FOLDER
from secondlook.engine.serve.settings import ServerSettings

LIMIT_BYTES = 42_000
ANY = encoded(quarters(ORIGINAL.width, ORIGINAL.height))

# Of the signs of this seed: one that the embedded model reads at once, and one that it looks closer at.
SURE, UNSURE = (SignsPicture("test", 77, index) for index in (3, 2))

WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLOURS = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const texts = [...one.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    return texts.length && one.checkVisibility();
}).map((one) => {
    let behind = one;
    while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    return [one.outerHTML, getComputedStyle(one).color, getComputedStyle(behind).backgroundColor];
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless(*SWITCHES) as opened:
        yield opened


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with loopback_server(Engine(load_model("demo"))) as address:
        yield address


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def fake(engine: FakeEngine) -> Iterator[str]:
    with listening(create_app(engine, ServerSettings(queue_size=1))) as address:
        yield address


chromium = pytest.mark.needs_chromium


# What is served


def test_the_page_is_small_and_names_nothing_that_is_elsewhere() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < LIMIT_BYTES
    named = {
        name
        for text in texts.values()
        for name in re.findall(r"(?:href|src)=\"(?:page/)?([^\"]+)\"|from \"\./([^\"]+)\"", text)
    }
    assert {one or other for one, other in named} - {"docs"} == set(texts) - {"index.html"}
    addresses = [
        address for text in texts.values() for address in re.findall(r"https?://[^\s\"`,;.)]+", text)
    ]
    assert set(addresses) == {
        "http://www",
        "http://localhost",
    }  # SVG's namespace, and what is said of cameras


def test_the_page_speaks_the_servers_protocol() -> None:
    assert f'PROTOCOL = "{PROTOCOL}";' in (FOLDER / "client.js").read_text(encoding="utf-8")


def test_the_page_is_served_with_headers_that_let_it_do_nothing_else(fake: str) -> None:
    with httpx.Client(base_url=fake) as client:
        for path, kind in (
            ("/", "text/html"),
            ("/page/page.js", "text/javascript"),
            ("/page/icon.svg", "image/svg"),
        ):
            reply = client.get(path)
            assert reply.status_code == 200
            assert reply.headers["content-type"].startswith(kind)
            policy = reply.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in policy
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["referrer-policy"] == "no-referrer"
            assert "camera=(self)" in reply.headers["permissions-policy"]
            assert reply.headers["cache-control"] == "no-cache"
            assert client.head(path).status_code == 200
            again = client.get(path, headers={"if-none-match": reply.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get("/page/nothing").json()["error"] == "not_found"
        assert client.post("/").json()["error"] == "method_not_allowed"
        assert "/page" not in client.get("/openapi.json").text


@chromium
@pytest.mark.parametrize("path", ["/", "/eyes/", "/eyes"])
def test_the_page_works_where_a_proxy_puts_it(browser: Browser, engine: FakeEngine, path: str) -> None:
    """Whether the proxy passes the path on or takes it away."""
    with (
        listening(create_app(engine, ServerSettings(root_path="/eyes"))) as address,
        browsing(browser, address + path) as page,
    ):
        page.get_by_text("Ask fake about a picture").wait_for()
        choose(page, ANY)
        ask(page, "anything")
        assert answered(page) == "second to anything"


# Both looks


@chromium
def test_a_sure_answer_takes_one_look(browser: Browser, url: str) -> None:
    question, data = SURE.questions[0], SURE.read()
    with browsing(browser, url) as page:
        choose(page, data)
        ask(page, question.text)
        assert answered(page) == question.answer
        assert "Sure at first sight" in page.locator("#decision").inner_text()
        assert page.locator("#second").is_hidden()
        assert page.locator("#box").is_hidden()
        meter = page.get_by_role("meter", name="Doubt of the first answer")
        assert float(meter.get_attribute("aria-valuenow") or "") < 0.5


@chromium
def test_an_unsure_answer_takes_a_closer_look_at_the_sign(browser: Browser, url: str) -> None:
    question, data = UNSURE.questions[0], UNSURE.read()
    assert question.sign is not None
    with EdgeClient(url) as client:
        edge = client.ask(data, question.text)
    with browsing(browser, url) as page:
        choose(page, data)
        sent = []
        page.on("request", lambda request: sent.append(request))
        ask(page, question.text)
        assert answered(page) == edge.text == question.answer
        assert "second look was surer" in page.locator("#decision").inner_text()
        assert "stands" in (page.locator("#second").get_attribute("class") or "")
        shown, box = page.locator("#shown").bounding_box(), page.locator("#box").bounding_box()
        assert shown is not None
        assert box is not None
        scale = UNSURE.scene.size.width / shown["width"]
        left, top = (box["x"] - shown["x"]) * scale, (box["y"] - shown["y"]) * scale
        assert left <= question.sign.x <= left + box["width"] * scale
        assert top <= question.sign.y <= top + box["height"] * scale
        assert page.evaluate("() => document.getElementById('heat').width") > 1
        posts = [request for request in sent if request.method == "POST"]
        first, second = map(form, posts)
        assert first["question"].decode() == question.text
        assert (int(first["width"]), int(first["height"])) == (
            UNSURE.scene.size.width,
            UNSURE.scene.size.height,
        )
        assert set(second) == {"image"}
        lengths = [len(request.post_data_buffer or b"") for request in posts]
        told = page.locator("#bytes").inner_text()
        assert f"{sum(lengths) / 1000:.0f} kB" in told
        assert (
            f"The original has {len(data) / 1000:.0f} kB, {len(data) / sum(lengths):.0f} times as much"
            in told
        )
        doubts = [page.locator(f"#{look} .doubt").inner_text() for look in ("first", "second")]
        assert [float(text.split()[1]) < 0.1883 for text in doubts] == [False, True]


@chromium
def test_a_model_with_other_views_is_asked_too(browser: Browser) -> None:
    """Of a budget of pixels, which has no size for a picture that is too slender."""
    question, data = UNSURE.questions[0], UNSURE.read()
    with (
        loopback_server(Engine(load_model("demo-qwen"))) as address,
        browsing(browser, address) as page,
    ):
        choose(page, encoded(Image.new("RGB", (3000, 10)), "PNG"), "line.png", "image/png")
        ask(page, "What is it?")
        assert "3000 \N{MULTIPLICATION SIGN} 10 pixels is too slender" in trouble(page)
        choose(page, data)
        assert page.get_by_role("alert").is_hidden()
        page.get_by_text("Settings").click()
        page.get_by_label("Look a second time").select_option("always")
        ask(page, question.text)
        assert answered(page) == question.answer


@chromium
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_shown_and_sent_upright(browser: Browser, fake: str, turn: int) -> None:
    upright = quarters(ORIGINAL.width, ORIGINAL.height)
    undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, the other way round
    stored = upright.transpose(Image.Transpose(undone[turn])) if turn > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    with browsing(browser, fake) as page:
        choose(page, encoded(stored, quality=95, exif=exif), f"turned-{turn}.jpg")
        page.get_by_text(f"turned-{turn}.jpg: 400 \N{MULTIPLICATION SIGN} 300 pixels").wait_for()
        with page.expect_request("**/v1/answers") as asked:
            ask(page, "sure")
        answered(page)
        parts = form(asked.value)
        assert (parts["width"], parts["height"]) == (b"400", b"300")
        corner = page.evaluate(
            "() => [...document.getElementById('shown').getContext('2d').getImageData(9, 9, 1, 1).data]"
        )
        assert corner[0] > 150 > 80 > max(corner[1:3])  # the red quarter


# The camera


@chromium
def test_a_camera_is_asked_about(browser: Browser, url: str) -> None:
    with browsing(browser, url) as page:
        page.get_by_role("button", name="Use camera").click()
        page.get_by_role("button", name="Stop camera").wait_for()
        ask(page, "Is there a red sign in the picture?")
        assert answered(page)
        assert re.match(r"Camera: \d+ . \d+ pixels, ", page.locator("#picture").inner_text())
        page.get_by_role("button", name="Use camera").wait_for()
        assert page.evaluate("() => document.getElementById('video').srcObject") is None


@chromium
def test_an_insecure_page_has_no_camera_and_says_why(browser: Browser, fake: str) -> None:
    with browsing(browser, fake.replace("127.0.0.1", INSECURE)) as page:
        page.get_by_role("button", name="Use camera").click()
        assert "secure pages only: https" in trouble(page)
        choose(page, ANY)  # files it may have
        ask(page, "sure")
        assert answered(page) == "first to sure"


@chromium
@pytest.mark.parametrize(
    ("switches", "words"),
    [
        (("--use-fake-device-for-media-stream", "--deny-permission-prompts"), "The camera was not allowed"),
        ((CAMERA[0] + "=device-count=0", CAMERA[1]), "No camera was found"),
    ],
)
def test_a_camera_that_cannot_be_had_is_told_of(
    browser: Browser, fake: str, switches: tuple[str, ...], words: str
) -> None:
    arguments = ["--no-sandbox", *switches]
    other = browser.browser_type.launch(executable_path=chromium_path(), args=arguments)
    with browsing(other, fake) as page:
        page.get_by_role("button", name="Use camera").click()
        assert words in trouble(page)
    other.close()


# What goes wrong


@chromium
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "a video"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"II*\0\x08\0\0\0", "a TIFF picture"),
        (ANY[:30], "damaged"),
        (b"hello, I am a text", "not a picture that this browser can read"),
        (b"", "empty"),
    ],
)
def test_a_file_that_is_no_picture_is_named(browser: Browser, fake: str, data: bytes, words: str) -> None:
    with browsing(browser, fake) as page:
        choose(page, data, "strange.heic", "application/octet-stream")
        assert words in trouble(page)
        choose(page, ANY)
        page.locator("#shown").wait_for()
        assert page.get_by_role("alert").is_hidden()


@chromium
def test_a_question_without_a_picture_asks_for_one(browser: Browser, fake: str) -> None:
    with browsing(browser, fake) as page:
        ask(page, "anything")
        assert "Choose a picture first" in trouble(page)


@chromium
def test_a_busy_server_is_waited_for(browser: Browser, engine: FakeEngine, fake: str) -> None:
    def other() -> int:
        data = {"question": "sure", "width": ORIGINAL.width, "height": ORIGINAL.height}
        with httpx.Client(base_url=fake, headers=SPOKEN, timeout=SECONDS) as client:
            return client.post("/v1/answers", data=data, files=image_part(jpeg())).status_code

    with browsing(browser, fake, refusals=True) as page, ThreadPoolExecutor() as threads:
        engine.gate.clear()
        others = [threads.submit(other) for _ in range(2)]
        assert engine.entered.acquire(timeout=SECONDS)
        choose(page, ANY)
        ask(page, "sure")
        page.get_by_text(re.compile(r"The server is busy; asking again in \d+ s")).wait_for()
        engine.gate.set()
        assert answered(page) == "first to sure"
        assert [each.result(SECONDS) for each in others].count(200) >= 1


@chromium
@pytest.mark.parametrize("question", ["anything", "long"])
def test_a_second_look_that_comes_too_late_leaves_the_first_answer(
    browser: Browser, engine: FakeEngine, fake: str, question: str
) -> None:
    """Which is told whole, if it was not complete."""

    def too_late(route: Route) -> None:
        name = route.request.url.removesuffix("/local")
        engine.rest.set()
        assert httpx.delete(name, headers=SPOKEN, timeout=SECONDS).status_code == 200
        route.continue_()

    with browsing(browser, fake, refusals=True) as page:
        page.route("**/local", too_late)
        choose(page, ANY)
        ask(page, question)
        assert answered(page) == f"first to {question}" + (", and more" if question == "long" else "")
        assert "came too late" in trouble(page)
        assert "the first answer stands" in page.locator("#decision").inner_text()


@chromium
def test_a_model_that_fails_is_told_of(browser: Browser, engine: FakeEngine, fake: str) -> None:
    engine.break_second = True
    with browsing(browser, fake, refusals=True) as page:
        choose(page, ANY)
        ask(page, "anything")
        assert answered(page) == "first to anything"
        assert "The model failed on this question" in trouble(page)
        ask(page, "broken")
        page.get_by_text("Try another picture or question.", exact=False).wait_for()
        assert page.locator("#answer").is_hidden()
        ask(page, "endless")
        page.get_by_text("does not fit the context").wait_for()  # the server's own words


@chromium
def test_a_server_that_is_gone_is_missed(browser: Browser, engine: FakeEngine) -> None:
    with listening(create_app(engine)) as address:
        opened = browsing(browser, address, refusals=True)
        page = opened.__enter__()
        choose(page, ANY)
    ask(page, "anything")
    assert "The server does not answer" in trouble(page)
    opened.__exit__(None, None, None)


@chromium
def test_a_question_can_be_stopped(browser: Browser, engine: FakeEngine, fake: str) -> None:
    with browsing(browser, fake, refusals=True) as page:
        engine.gate.clear()
        choose(page, ANY)
        ask(page, "sure")
        assert engine.entered.acquire(timeout=SECONDS)
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("button", name="Ask").wait_for()
        assert page.get_by_role("alert").is_hidden()
        engine.gate.set()
        ask(page, "sure")
        assert answered(page) == "first to sure"


@chromium
def test_a_key_goes_with_every_request_and_is_kept_for_the_tab_alone(browser: Browser, fake: str) -> None:
    with browsing(browser, fake) as page:
        page.get_by_text("Settings").click()
        page.get_by_label("key").fill("s3cret")
        page.reload()
        choose(page, ANY)
        with page.expect_request("**/v1/answers") as asked:
            ask(page, "anything")
        assert asked.value.all_headers()["authorization"] == "Bearer s3cret"
        assert answered(page)
        assert page.evaluate("() => [localStorage.length, document.cookie, sessionStorage.length]") == [
            0,
            "",
            1,
        ]


# How it looks, and to whom


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2)."""
    parts = [float(part) / 255 for part in re.findall(r"[\d.]+", colour)[:3]]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@chromium
@pytest.mark.parametrize("viewport", [{"width": 320, "height": 600}, PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(
    browser: Browser, fake: str, viewport: dict[str, int], scheme: str
) -> None:
    def check(page: Page) -> None:
        assert page.evaluate(WIDER) == 0
        for what, ink, paper in page.evaluate(COLOURS):
            dark, light = sorted((luminance(ink), luminance(paper)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, what

    with browsing(browser, fake, viewport=viewport, color_scheme=scheme) as page:
        paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (luminance(paper) > 0.5) is (scheme == "light")
        check(page)
        choose(page, ANY, f"{'long' * 40}.jpg")
        ask(page, "anything " + "andsoonandon" * 20)
        answered(page)
        page.get_by_text("Settings").click()
        check(page)


@chromium
def test_the_page_can_be_used_with_a_keyboard(browser: Browser, fake: str) -> None:
    with browsing(browser, fake) as page:
        order = []
        for _ in range(6):
            page.keyboard.press("Tab")
            order.append(page.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
        assert order == ["file", "camera", "mapped", "question", "ask", "SUMMARY"]
        choose(page, ANY)
        page.locator("#question").focus()
        page.keyboard.type("sure")
        page.keyboard.press("Enter")
        assert answered(page) == "first to sure"


@chromium
def test_every_control_and_picture_has_a_name(browser: Browser, fake: str) -> None:
    with browsing(browser, fake) as page:
        choose(page, ANY)
        ask(page, "anything")
        answered(page)
        page.get_by_text("Settings").click()
        told = page.locator("body").aria_snapshot()
        for line in told.splitlines():
            if found := re.match(r"\s*- (button|textbox|combobox|checkbox|img|meter|link)\b(.*)", line):
                assert '"' in found[2], line
        headings = [int(level) for level in re.findall(r"heading .*\[level=(\d)\]", told)]
        assert headings[0] == 1
        assert all(below <= above + 1 for above, below in pairwise(headings))
