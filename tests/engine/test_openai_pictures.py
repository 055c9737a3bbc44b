"""The pictures of chats: in the request, kept, or fetched; nothing inside the network is fetched."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.chats import data_url, encoded
from engine.fake_engine import jpeg
from secondlook.edge.errors import PictureError, PictureTooLargeError, SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.limits import PictureLimits
from secondlook.engine.serve.openai.errors import ChatError
from secondlook.engine.serve.openai.fetching import Fetcher, is_public
from secondlook.engine.serve.openai.pictures import Encoded, PictureStore, from_data_url
from secondlook.engine.serve.settings import ChatLimits, PictureStoreLimits

LIMITS = PictureLimits(max_pixels=100_000, max_bytes=100_000)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:image/jpeg,abc", "invalid_image_url"),
        ("data:image/jpeg;base64", "invalid_image_url"),
        ("data:image/jpeg;base64,a b!", "invalid_image_url"),
        ("data:image/jpeg;base64,abc", "invalid_image_url"),
        ("data:image/jpeg;base64,aä==", "invalid_image_url"),
        ("data:image/gif;base64,R0lGODlh", "unsupported_image_type"),
        ("data:text/html;base64,aGk=", "unsupported_image_type"),
    ],
)
def test_data_urls_that_are_no_picture_are_refused(url: str, code: str) -> None:
    with pytest.raises(ChatError) as caught:
        from_data_url(url, None, "messages.0")
    assert (caught.value.code, caught.value.param) == (code, "messages.0")


def test_a_data_url_is_its_bytes_under_the_clients_name_or_its_own() -> None:
    picture = from_data_url(data_url(jpeg()), None, "messages.0")
    assert picture.data == jpeg()
    assert picture.open(LIMITS).size == Size(32, 32)
    assert picture.name == from_data_url(data_url(jpeg(), "image/png"), None, "x").name
    assert from_data_url(data_url(jpeg()), "door", "x").name == "door"


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<svg/>", b"BM" + bytes(60), b"II*\0" + bytes(60)])
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(ChatError, match="neither JPEG, PNG nor WebP"):
        Encoded.of(data, None, "x").open(LIMITS)


def test_damaged_and_oversized_pictures_are_refused() -> None:
    from PIL import Image

    with pytest.raises(PictureError):
        Encoded.of(jpeg()[:100], None, "x").open(LIMITS)
    with pytest.raises(PictureTooLargeError):
        Encoded.of(encoded(Image.new("1", (2000, 2000))), None, "x").open(LIMITS)


# The store


def kept(store: PictureStore, client: str, name: str) -> bool:
    try:
        return store.find(client, name, "x").name == name
    except ChatError:
        return False


def test_a_picture_is_its_clients_alone_and_for_a_time() -> None:
    now = 0.0
    store = PictureStore(PictureStoreLimits(seconds=10), lambda: now)
    store.keep("a", Encoded(b"1", "door", "x"))
    store.keep("b", Encoded(b"2", "door", "x"))
    assert store.find("a", "door", "x").data == b"1"
    with pytest.raises(ChatError, match="send it again") as caught:
        store.find("c", "door", "messages.0")
    assert (caught.value.code, caught.value.status) == ("image_not_found", 404)
    now = 9.0
    assert kept(store, "a", "door")
    now = 11.0
    assert kept(store, "a", "door")
    assert not kept(store, "b", "door")
    now = 21.0
    assert not kept(store, "a", "door")
    assert (len(store), store.nbytes) == (0, 0)


def test_what_is_sent_again_takes_the_place_of_what_was() -> None:
    store = PictureStore(PictureStoreLimits())
    store.keep("a", Encoded(b"11", "door", "x"))
    store.keep("a", Encoded(b"222", "door", "x"))
    assert store.find("a", "door", "x").data == b"222"
    assert store.nbytes == 3


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12345"), st.integers(0, 30)), max_size=60))
def test_the_store_keeps_within_its_bounds_and_the_shares_of_three(
    pictures: list[tuple[str, str, int]],
) -> None:
    store = PictureStore(PictureStoreLimits(most=5, max_bytes=40))
    for client, name, size in pictures:
        store.keep(client, Encoded(bytes(size), name, "x"))
        assert size > 40 // 3 or kept(store, client, name)
        assert len(store) <= 5
        assert store.nbytes <= 40


def test_one_client_cannot_push_out_anothers() -> None:
    store = PictureStore(PictureStoreLimits(most=10, max_bytes=100))
    store.keep("quiet", Encoded(bytes(20), "door", "x"))
    for number in range(50):
        store.keep("busy", Encoded(bytes(30), f"{number}", "x"))
    assert kept(store, "quiet", "door")
    assert kept(store, "busy", "49")
    store.keep("quiet", Encoded(bytes(101), "vast", "x"))
    assert not kept(store, "quiet", "vast")


# Fetching


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        "::7f00:1",
        "64:ff9b:1::1",
    ],
)
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are(address: str) -> None:
    assert is_public(address)


@contextmanager
def hosting(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def gives(data: bytes, status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


def fetched(fetcher: Fetcher, url: str, taken: list[int] | None = None) -> bytes:
    return asyncio.run(fetcher.fetch(url, "messages.0", (taken if taken is not None else []).append))


def refusal(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(ChatError) as caught:
        fetched(fetcher, url)
    assert caught.value.status == 400
    assert caught.value.code in ("image_url_not_allowed", "image_fetch_failed")
    return str(caught.value)


def anywhere(*hosts: str, seconds: float = 60, most: int = 10_000) -> Fetcher:
    """Also from this machine, where the tests' servers are."""
    return Fetcher(hosts, seconds, most, allowed=lambda _: True)


def here(port: int, **limits: Any) -> Fetcher:
    return anywhere(f"localhost:{port}", **limits)


def test_a_picture_of_an_allowed_host_is_fetched_and_its_bytes_counted() -> None:
    seen = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append((request.path, request.headers["Host"], request.headers["Accept-Encoding"]))
        gives(jpeg())(request)

    with hosting(answer) as port:
        taken: list[int] = []
        assert fetched(here(port), f"http://localhost:{port}/a/b.jpg?c=d#e", taken) == jpeg()
        assert sum(taken) == len(jpeg())
        assert seen == [("/a/b.jpg?c=d", f"localhost:{port}", "identity")]


def test_no_other_host_is_asked() -> None:
    with hosting(gives(jpeg())) as port:
        assert "not fetched (--allowed-media-domains)" in refusal(
            anywhere("pictures.example"), f"http://localhost:{port}/"
        )
        for url in ("http://", "http:///x", "http://localhost:99999/", "http://[::1/", "gopher://localhost/"):
            assert "not fetched" in refusal(anywhere("localhost"), url)
        assert "user's name" in refusal(here(port), f"http://me:secret@localhost:{port}/")


@pytest.mark.parametrize(
    ("allowed", "url", "named"),
    [
        ("localhost", "http://localhost:{}/", "'localhost:{}'"),
        ("localhost", "https://localhost:80/", "'localhost:80'"),
        ("localhost", "http://localhost:443/", "'localhost:443'"),
        ("localhost", "http://localhost:0/", "'localhost:0'"),
        ("localhost:1", "http://localhost:{}/", "'localhost:{}'"),
        ("localhost:1", "http://localhost/", "'localhost'"),
    ],
)
def test_no_other_port_is_asked(allowed: str, url: str, named: str) -> None:
    with hosting(gives(jpeg())) as port:
        told = refusal(anywhere(allowed), url.format(port))
        assert f"pictures of {named.format(port)} are not fetched" in told


def test_a_host_alone_is_asked_on_the_ports_of_http_and_https(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def resolve(_loop: object, host: str, port: int, **_: Any) -> list[Any]:
        asked.append((host, port))
        return []

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
    for url in ("http://Pictures.example./", "http://pictures.example:80/", "https://pictures.example/"):
        refusal(anywhere("pictures.EXAMPLE"), url)
    refusal(anywhere("[2001:db8::1]:8443"), "https://[2001:db8::1]:8443/")
    places = [("pictures.example", 80)] * 2 + [("pictures.example", 443), ("2001:db8::1", 8443)]
    assert asked == places


@pytest.mark.parametrize(
    "domain", ["a b", "http://a", "a/", "me@a", "a:", "a:0", "a:65536", "a:x", "::1", "[::1", "[x]", ""]
)
def test_what_is_no_host_cannot_be_allowed(domain: str) -> None:
    with pytest.raises(SettingsError, match="--allowed-media-domains"):
        ChatLimits(allowed_media_domains=(domain,))


def test_an_allowed_name_does_not_lead_inside() -> None:
    with hosting(gives(jpeg())) as port:
        guarded = Fetcher([f"{host}:{port}" for host in ("localhost", "127.0.0.1", "[::1]")], 60, 10_000)
        for host in ("localhost", "127.0.0.1", "[::1]"):
            assert "not of the internet" in refusal(guarded, f"http://{host}:{port}/")


def test_the_address_that_was_checked_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers something else the second time leads nowhere."""
    looked_up = []

    async def resolve(_loop: object, host: str, port: int, **_: Any) -> list[Any]:
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
    with hosting(gives(jpeg())) as port:
        assert fetched(anywhere(f"pictures.example:{port}"), f"http://pictures.example:{port}/") == jpeg()
    assert looked_up == ["pictures.example"]


def test_redirects_errors_and_large_pictures_are_not_followed() -> None:
    with hosting(gives(b"", 302, Location="http://localhost/")) as port:
        assert "302; redirects are not followed" in refusal(here(port), f"http://localhost:{port}/")
    with hosting(gives(b"", 404)) as port:
        assert "answers 404" in refusal(here(port), f"http://localhost:{port}/")
    with hosting(gives(bytes(1001))) as port:
        assert "limit of 1000 bytes" in refusal(here(port, most=1000), f"http://localhost:{port}/")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert "could not be fetched" in refusal(here(port), f"http://localhost:{port}/")


def test_a_slow_host_is_given_up() -> None:
    done = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        assert done.wait(60)

    with hosting(answer) as port:
        try:
            assert "longer than 0.2 seconds" in refusal(here(port, seconds=0.2), f"http://localhost:{port}/")
        finally:
            done.set()


def test_base64_of_any_kind_of_variant_is_read_strictly() -> None:
    text = base64.b64encode(jpeg()).decode()
    assert from_data_url(f"DATA:image/JPEG;charset=x;BASE64,{text}", None, "x").data == jpeg()
    with pytest.raises(ChatError):
        from_data_url(f"data:image/jpeg;base64,{text}\n", None, "x")
