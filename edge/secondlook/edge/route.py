"""How a client gets to its server: the address, a proxy of the environment, and whose certificates count.

The environment means what it means to httpx and curl (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY,
SSL_CERT_FILE, SSL_CERT_DIR), but is read here, for the one server: so an error can name the variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import httpx

from .errors import SettingsError, SourceError
from .exchange import LostError

__all__ = ["Route", "camera_name", "checked_url", "without_password"]


@dataclass(frozen=True)
class _Proxy:
    """A proxy, and where it comes from."""

    url: httpx.URL
    variable: str

    def __str__(self) -> str:
        return f"the proxy {_address(self.url)} ({self.variable})"


@dataclass(frozen=True)
class Route:
    """The way to one server.

    Attributes:
        url: the server's address.
        proxy: None where the environment names none for this server.
        certificates: what an https server or proxy is checked with; None where there is nothing to check.
        trusted: whose certificates these are, in words.
    """

    url: httpx.URL
    proxy: _Proxy | None = None
    certificates: ssl.SSLContext | None = None
    trusted: str = ""

    @classmethod
    def to(cls, server_url: str, ca: str | Path | None = None, direct: bool = False) -> Route:
        """
        Args:
            server_url: with or without a path before the server's own.
            ca: a file of certificates, in PEM, that are trusted instead of the usual ones.
            direct: pass by the environment's proxy.

        Raises:
            SettingsError: the address, the environment or the file cannot be used.
        """
        url = checked_url(server_url)
        proxy = None if direct else _proxy_for(url)
        if "https" not in (url.scheme, proxy.url.scheme if proxy else ""):
            return cls(url, proxy)  # without TLS, certificates would be loaded for nothing
        return cls(url, proxy, *_certificates(ca))

    def options(self) -> dict[str, Any]:
        """For `httpx.Client`."""
        options: dict[str, Any] = {
            "base_url": self.url,
            "verify": self.certificates or False,
            "trust_env": False,
        }
        if self.proxy is not None:
            checks = self.certificates if self.proxy.url.scheme == "https" else None
            options["proxy"] = httpx.Proxy(self.proxy.url, ssl_context=checks)
        return options

    def lost(self, error: httpx.RequestError) -> LostError:
        """What is told of a request without a reply: where it was lost, and whether it is worth repeating."""
        address = _address(self.url)
        detail = " ".join(str(error).split()) or type(error).__name__
        connecting = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
        travelled = not connecting and not isinstance(error, httpx.PoolTimeout)
        tls = next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)), None)
        if isinstance(tls, ssl.SSLCertVerificationError):
            return LostError(
                f"the certificate of {address} is refused: {tls.verify_message}; trusted are {self.trusted}. "
                "If the server's certificate is your own, name its authority's file (--ca)",
                travelled,
                hopeless=True,
            )
        if tls is not None and not isinstance(tls, ssl.SSLEOFError):
            return LostError(
                f"no TLS with {address}: {detail}; does it speak https?", travelled, hopeless=True
            )
        if isinstance(error, httpx.ProxyError):
            refused = re.match("4[0-9][0-9]", detail) is not None
            return LostError(
                f"{self.proxy} does not lead to {address}: {detail}", travelled, hopeless=refused
            )
        if connecting and self.proxy is not None:
            return LostError(f"cannot connect to {self.proxy}, on the way to {address}: {detail}", travelled)
        if connecting:
            return LostError(f"cannot connect to {address}: {detail}", travelled)
        if isinstance(error, httpx.TimeoutException):
            return LostError(f"{address} did not answer in time: {detail}", travelled)
        told = f"the connection to {self.proxy or address} was lost: {detail}"
        if isinstance(error, httpx.RemoteProtocolError) and self.url.scheme == "http":
            told += "; if it speaks TLS, its address begins with https://"
        return LostError(told, travelled)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def checked_url(server_url: str) -> httpx.URL:
    """
    Raises:
        SettingsError: it is no address of a server.
    """
    shown = without_password(server_url)
    try:
        url = httpx.URL(server_url)
        url.host.encode("idna")  # as the resolver will
    except (httpx.InvalidURL, UnicodeError) as error:
        raise SettingsError(
            f"the server's address {shown!r} is not a URL: {_reason(error, shown)}"
        ) from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise SettingsError(f"the server's address must look like http://host:port, not {shown!r}")
    if url.port is not None and not 0 < url.port < 65536:
        raise SettingsError(f"the server's address {shown!r} has a port that is none; they are 1 to 65535")
    return url


def _proxy_for(url: httpx.URL) -> _Proxy | None:
    """The environment's proxy for a server, checked by making a transport of it."""
    proxies = getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    value = proxies.get(scheme, "").strip()
    if not value or _is_excepted(url, proxies.get("no", "")):
        return None
    names = f"{scheme}_proxy", f"{scheme.upper()}_PROXY"
    variable = next((name for name in names if os.environ.get(name)), "of the system's settings")
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        if not proxy.url.host:
            raise ValueError("it names no host")
        proxy.url.host.encode("idna")
        httpx.HTTPTransport(proxy=proxy, verify=False, trust_env=False).close()
    except (httpx.InvalidURL, ImportError, ValueError, TypeError, OSError) as error:
        shown = without_password(value)
        raise SettingsError(
            f"the proxy {variable}={shown} cannot be used: {_reason(error, shown)}; unset it, or add "
            f"{url.host} to NO_PROXY"
        ) from error
    return _Proxy(proxy.url, variable)


def _is_excepted(url: httpx.URL, no_proxy: str) -> bool:
    """Whether NO_PROXY has a server: `*`, names and all below them, addresses, networks; also with a port."""
    host = url.host.lower().rstrip(".")
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    for entry in no_proxy.replace(",", " ").lower().split():
        entry = entry.rpartition("://")[2]
        whole = _network(entry) if "]:" not in entry else None  # an IPv6 address has colons of its own
        split = whole is None and re.search(r":[0-9]+$", entry)
        name, _, digits = entry.rpartition(":") if split else (entry, "", "")
        if digits and int(digits) != port:
            continue
        network = whole or _network(name)
        if network is not None:
            if _network(host) is not None and ipaddress.ip_address(host) in network:
                return True
            continue
        name = name.strip("[]").removeprefix("*").removeprefix(".").rstrip(".")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
    return False


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(re.sub(r"[\[\]]", "", text), strict=False)
    except ValueError:
        return None


def _certificates(ca: str | Path | None) -> tuple[ssl.SSLContext, str]:
    """What certificates are checked with, and whose they are: the setting's, the environment's or httpx's."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        if ca or file:
            named = f"{ca}" if ca else f"SSL_CERT_FILE={file}"
            return ssl.create_default_context(cafile=str(ca or file)), f"those of {named}"
        if folder:
            named = f"SSL_CERT_DIR={folder}"
            os.listdir(folder)  # OpenSSL is silent about a folder that is none
            return ssl.create_default_context(capath=folder), f"those of {named}"
        named = "certifi"
        return httpx.create_ssl_context(trust_env=False), "the usual authorities' (certifi's)"
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        keys = os.environ.get("SSLKEYLOGFILE", "")
        if getattr(error, "filename", None) == keys:
            raise SettingsError(f"SSLKEYLOGFILE={keys} cannot be written: {reason}; unset it") from error
        raise SettingsError(f"the certificates of {named} cannot be read: {reason}") from error


def _address(url: httpx.URL) -> httpx.URL:
    """Host and port, for messages."""
    return url.copy_with(path="/", query=None, userinfo=b"")


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"^([a-z0-9+.-]*://)?.*@", r"\1…@", url, flags=re.IGNORECASE)


def camera_name(text: str) -> str:
    """A camera's address as it may be shown: some have the password in their path or query.

    Raises:
        SourceError: it is none.
    """
    try:
        url = httpx.URL(text)
        host = url.host
        host.encode("idna")
        if url.port is not None and not 0 < url.port < 65536:
            host = ""
    except (httpx.InvalidURL, UnicodeError):
        host = ""
    if not host:
        raise SourceError("the camera's address is malformed; it must look like rtsp://host:port/path")
    path = url.path if re.fullmatch(r"[\w/.~-]*", url.path) else "/…"
    query = "?…" if url.query else ""
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{f'[{host}]' if ':' in host else host}{port}{path}{query}"


def _reason(error: Exception, shown: str) -> str:
    """What is wrong with a URL; not in the parser's words if they could have a part of its password."""
    if isinstance(error, httpx.InvalidURL | UnicodeError) and "…@" in shown:
        return "it is malformed"
    return " ".join(str(error).split())
