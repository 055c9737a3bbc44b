"""The way to a server: what the environment says of proxies and certificates, and errors that name it."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

from edge.support import CARD, ScriptedServer, encoded, final, gradient
from secondlook.edge import AsyncEdgeClient, ClientSettings, ConnectionFailedError, EdgeClient, SettingsError
from secondlook.edge.route import Route

PICTURE = encoded(gradient(40, 30))
VARIABLES = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ssl_cert_file",
    "ssl_cert_dir",
    "sslkeylogfile",
]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        for name in (variable, variable.upper()):
            monkeypatch.delenv(name, raising=False)


# --- proxies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),  # without the package that speaks it
        ("all_proxy", "socks://127.0.0.1:1080/"),
        ("HTTP_PROXY", "socks4://127.0.0.1:1080"),
        ("http_proxy", "ftp://proxy"),
        ("HTTP_PROXY", "http://proxy:port"),
        ("HTTP_PROXY", "http://[::1"),
        ("HTTP_PROXY", "http://"),
        ("HTTP_PROXY", "://proxy"),
        ("HTTP_PROXY", "http://proxy..example:3128"),
        ("HTTP_PROXY", f"http://{'a' * 70}.example"),
    ],
)
@pytest.mark.parametrize("client", [EdgeClient, AsyncEdgeClient])
def test_a_proxy_that_cannot_be_used_is_named_in_one_line(
    client: Callable[[str], object], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match="unset it, or add server to NO_PROXY") as caught:
        client("http://server:8000")
    assert f"{variable}={value} " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (
        "http://me:hush#x@proxy:1",
        "socks9://me:hush@proxy",
        "me:hush@proxy:p",
        "http://a:hush@b:c",
    ):
        monkeypatch.setenv("HTTP_PROXY", value)
        with pytest.raises(SettingsError, match="the proxy HTTP_PROXY=") as caught:
            EdgeClient("http://server")
        assert "hush" not in str(caught.value)
    monkeypatch.setenv("HTTP_PROXY", "http://me:hush@proxy:1")
    for address in ("http://me:hush@server:port", "htp://me:hush@server"):
        with pytest.raises(SettingsError, match="the server's address") as caught:
            EdgeClient(address)
        assert "hush" not in str(caught.value)
    route = Route.to("http://me:hush@server")
    for error in (httpx.ConnectError("no"), httpx.ReadError("no"), httpx.ProxyError("407 Who are you")):
        assert "hush" not in str(route.lost(error))


@pytest.mark.parametrize(
    ("address", "excepted"),
    [
        ("http://server", "*"),
        ("http://server", "other, server"),
        ("http://a.server.example:8000", "server.example"),
        ("http://a.server.example", ".server.example"),
        ("http://server.example", "*.server.example"),
        ("http://SERVER.example", "server.EXAMPLE"),
        ("http://server:8000", "server:8000"),
        ("http://server", "http://server:80"),
        ("http://127.0.0.1:8000", "localhost,127.0.0.1,::1/128"),
        ("http://127.0.0.1:8000", "127.0.0.0/8"),
        ("http://10.1.2.3", "10.1.2.3/8"),
        ("http://[::1]:8000", "::1/128"),
        ("http://[::1]:8000", "[::1]"),
        ("http://[::1]:8000", "::1"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[fe80::7]", "fe80::/10"),
    ],
)
def test_servers_that_no_proxy_names_are_asked_directly(
    address: str, excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("NO_PROXY", excepted)
    assert Route.to(address).proxy is None
    EdgeClient(address).close()


@pytest.mark.parametrize(
    "excepted",
    [
        "",
        "other",
        "server.org",
        "myserver",
        "server:81",
        "10.0.0.0/8",
        "[::1",
        "::1/999",
        "a:b:c",
        ",,",
        "[::2]:81",
    ],
)
def test_others_are_asked_through_the_proxy(excepted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", excepted)
    for address in ("http://server", "http://server.example", "http://127.0.0.1", "http://[::2]"):
        assert str(Route.to(address).proxy) == "the proxy http://proxy.example:3128/ (HTTP_PROXY)"
    assert Route.to("https://server").proxy is None


def test_the_schemes_own_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1080")  # of no use, and not used
    monkeypatch.setenv("http_proxy", "http://one")
    monkeypatch.setenv("HTTPS_PROXY", "http://two")
    assert str(Route.to("http://server").proxy) == "the proxy http://one/ (http_proxy)"
    assert str(Route.to("https://server").proxy) == "the proxy http://two/ (HTTPS_PROXY)"


def test_a_proxy_that_does_not_answer_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with (
        EdgeClient("http://127.0.0.2:8000", settings=ClientSettings(retries=0)) as client,
        pytest.raises(
            ConnectionFailedError, match=r"cannot connect to the proxy http://127\.0\.0\.1:9/ \(HTTP_PROXY\)"
        ),
    ):
        client.ask(PICTURE, "What?")


@pytest.mark.parametrize(("said", "hopeless"), [("407 Who are you", True), ("503 Not now", False)])
def test_what_a_proxy_refuses_is_told_as_its_words(
    said: str, hopeless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    lost = Route.to("https://server").lost(httpx.ProxyError(said))
    assert str(lost) == f"the proxy http://proxy/ (HTTPS_PROXY) does not lead to https://server/: {said}"
    assert lost.hopeless is hopeless


# --- certificates -----------------------------------------------------------------------------------------


def test_certificates_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "ca.pem"
    text.write_text("no certificate")
    for variable, value, reason in [
        ("SSL_CERT_FILE", "/nonexistent/ca.pem", "No such file or directory"),
        ("SSL_CERT_FILE", str(tmp_path), "Is a directory"),
        ("SSL_CERT_FILE", str(text), "no certificate"),
        ("SSL_CERT_DIR", "/nonexistent", "No such file or directory"),
    ]:
        with monkeypatch.context() as changed:
            changed.setenv(variable, value)
            EdgeClient("http://server").close()  # needs none
            for client in (EdgeClient, AsyncEdgeClient):
                with pytest.raises(SettingsError, match=reason) as caught:
                    client("https://server")
                assert f"{variable}={value} cannot be" in str(caught.value)
                assert "\n" not in str(caught.value)
    with pytest.raises(
        SettingsError, match=r"certificates of /nonexistent/mine\.pem cannot be read: No such file"
    ):
        EdgeClient("https://server", settings=ClientSettings(ca="/nonexistent/mine.pem"))


def test_a_log_of_keys_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
    with pytest.raises(
        SettingsError, match=r"SSLKEYLOGFILE=/nonexistent/keys cannot be written: No such file"
    ):
        EdgeClient("https://server", settings=ClientSettings(ca=certifi.where()))


def test_the_settings_certificates_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    route = Route.to("https://server", ca=Path(certifi.where()))
    assert route.trusted == f"those of {certifi.where()}"


def wrapped(cause: ssl.SSLError) -> type[httpx.RequestError]:
    """An error of httpx's around one of TLS, as it comes from the network."""

    class Refused(httpx.ConnectError):
        def __init__(self, message: str, **named: Any) -> None:
            super().__init__(message, **named)
            self.__cause__ = httpx.ConnectError("between")
            self.__cause__.__cause__ = cause

    return Refused


def test_a_refused_certificate_is_not_tried_again(server: ScriptedServer) -> None:
    cause = ssl.SSLCertVerificationError()
    cause.verify_message = "self-signed certificate"
    for error, told in [
        (
            cause,
            r"of https://server/ is refused: self-signed certificate; trusted are .*certifi.*--ca",
        ),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "does it speak https"),
    ]:
        server.steps = [wrapped(error)]
        transport = httpx.MockTransport(server)
        with (
            EdgeClient("https://server", transport=transport, sleep=server.slept.append) as client,
            pytest.raises(ConnectionFailedError, match=told),
        ):
            client.ask(PICTURE, "What?")
        assert server.slept == []


# --- what a gateway wants to see --------------------------------------------------------------------------


def test_the_key_and_further_headers_go_with_every_request(server: ScriptedServer) -> None:
    server.steps = [CARD, final()]
    settings = ClientSettings(api_key="hush", headers={"X-Site": "roof 7"})
    with EdgeClient("http://server", settings=settings, transport=httpx.MockTransport(server)) as client:
        client.ask(PICTURE, "What?")
    for request in server.requests:
        assert request.headers["authorization"] == "Bearer hush"
        assert request.headers["x-site"] == "roof 7"
    assert "hush" not in repr(settings)
    assert "roof" not in repr(settings)


@pytest.mark.parametrize(
    "named",
    [
        {"api_key": "hush\n"},
        {"api_key": "hüsh"},
        {"api_key": b"hush"},
        {"api_key": ""},
        {"headers": {"X-Key": "hush\r\nHost: other"}},
        {"headers": {"X-Key": b"hush"}},
        {"headers": {"X Key": "hush"}},
        {"headers": ["X-Key: hush"]},
        {"headers": {"Content-Type": "hush"}},
        {"headers": {"secondlook-protocol": "hush"}},
    ],
)
def test_what_no_header_can_have_is_refused_and_not_shown(named: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"api_key|headers") as caught:
        ClientSettings(**named)
    assert "sh" not in str(caught.value).replace("should", "")
    assert caught.value.__cause__ is None
