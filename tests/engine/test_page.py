"""The page at `/`, in a browser and on the embedded models: what is served, both looks, a camera."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Request

from engine.browsing import PICTURE, answered, ask, browsing, choose, encoded, form, quarters, trouble
from engine.fake_engine import ORIGINAL, FakeEngine
from engine.gates import a_gate
from engine.serving_harness import listening
from secondlook.benchmarks.loopback import loopback_server
from secondlook.benchmarks.signs.evaluation import SignsPicture
from secondlook.edge import EdgeClient
from secondlook.edge.wire import PROTOCOL
from secondlook.engine.engine import Engine
from secondlook.engine.method.policy import Policy
from secondlook.engine.models.checkpoint import load_model
from secondlook.engine.serve.app import create_app
from secondlook.engine.serve.page import FOLDER
from secondlook.engine.serve.settings import ServerSettings

LIMIT_BYTES = 42_000

# Of the signs of this seed: one that the embedded model reads at once, and one that it looks closer at.
SURE, UNSURE = (SignsPicture("test", 77, index) for index in (3, 2))

chromium = pytest.mark.needs_chromium


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with loopback_server(Engine(load_model("demo"))) as address:
        yield address


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


def test_the_page_is_served_with_headers_that_let_it_do_nothing_else(fake_url: str) -> None:
    with httpx.Client(base_url=fake_url) as client:
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
def test_the_page_works_where_a_proxy_puts_it(browser: Browser, fake: FakeEngine, path: str) -> None:
    """Whether the proxy passes the path on or takes it away."""
    with (
        listening(create_app(fake, ServerSettings(root_path="/eyes"))) as address,
        browsing(browser, address + path) as page,
    ):
        page.get_by_text("Ask fake about a picture").wait_for()
        choose(page, PICTURE)
        ask(page, "anything")
        assert answered(page) == "second to anything"


@chromium
def test_both_looks_carry_the_name_of_their_question(browser: Browser, fake_url: str) -> None:
    with browsing(browser, fake_url) as page:
        asked = list[Request]()
        page.on("request", lambda request: asked.append(request))
        choose(page, PICTURE)
        for _ in range(2):
            ask(page, "anything")
            assert answered(page) == "second to anything"
        names = [one.all_headers().get("x-session-id") for one in asked if one.method == "POST"]
    assert names[0] == names[1] != names[2] == names[3]
    assert all(name and len(name) > 30 for name in names)


@chromium
def test_a_key_goes_with_every_request_and_is_kept_for_the_tab_alone(browser: Browser, fake_url: str) -> None:
    with browsing(browser, fake_url) as page:
        page.get_by_text("Settings").click()
        page.get_by_label("key").fill("s3cret")
        page.reload()
        choose(page, PICTURE)
        with page.expect_request("**/v1/answers") as asked:
            ask(page, "anything")
        assert asked.value.all_headers()["authorization"] == "Bearer s3cret"
        assert answered(page)
        assert page.evaluate("() => [localStorage.length, document.cookie, sessionStorage.length]") == [
            0,
            "",
            1,
        ]


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
def test_a_gates_threshold_is_no_mark_on_the_doubt(browser: Browser) -> None:
    """Which decides otherwise than the doubt would: here against a second look."""
    engine = Engine(load_model("demo"), Policy(0.5, gate=a_gate(-9.0)))
    with loopback_server(engine) as address, browsing(browser, address) as page:
        choose(page, UNSURE.read())
        ask(page, UNSURE.questions[0].text)
        answered(page)
        assert page.locator("#second").is_hidden()
        assert page.locator("#mark").inner_text() == ""
        assert "unsure" not in (page.locator("#first .meter").get_attribute("aria-valuetext") or "")
        assert page.locator("#first .meter").get_attribute("class") == "meter gated"


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
def test_a_picture_is_shown_and_sent_upright(browser: Browser, fake_url: str, turn: int) -> None:
    upright = quarters(ORIGINAL.width, ORIGINAL.height)
    undone = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions, the other way round
    stored = upright.transpose(Image.Transpose(undone[turn])) if turn > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    with browsing(browser, fake_url) as page:
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
