"""Pages that may not ask: an ASGI middleware for what stands open in a private network.

Whoever opens a page of another site lends it a browser that reaches that network. Such a page is known by its
`Origin` or `Sec-Fetch-Site`; but not where its own site's name suddenly means an address of the network (DNS
rebinding): to the browser it is then a page of ours. So whatever a request names as its `Host` must be ours
too. An address always is, for a name alone can change its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from secondlook.engine.serve.errors import ForeignPageError, reply_to

__all__ = ["ANY_HOST", "OwnPages", "is_address"]

ANY_HOST: Final = "*"
_LOOPBACK: Final = "localhost"
"""And whatever ends so: RFC 6761, section 6.3."""


class OwnPages:
    """Refuses what a page of another site asks (403), known by its origin or by the host that it names.

    Args:
        hosts: names by which the application is reached, besides addresses and this machine's own to itself;
            with `ANY_HOST` by any.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            try:
                self._check_host(request.headers.get("host"))
                _check_origin(request)
            except ForeignPageError as error:
                refusal = await reply_to(request, error)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_host(self, host: str | None) -> None:
        if host is None or ANY_HOST in self._hosts:  # every browser names one
            return
        name = _name(host)
        if not (is_address(name) or name in self._hosts or name.rpartition(".")[2] == _LOOPBACK):
            raise ForeignPageError(
                f"{host[:200]!r} is not known here as a name of this gateway; if it is one, name it with "
                "--allowed-host"
            )


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """Without a port, brackets and the root's dot, in small letters; "" where it cannot be read."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _check_origin(request: Request) -> None:
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    ours = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if site == "cross-site" or not ours:
        raise ForeignPageError(f"a page of {(origin or 'another site')[:200]} may not ask here")
