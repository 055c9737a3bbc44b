"""Pictures that lie elsewhere, of hosts that the operator names: nothing inside the network is reached by it.

The name is looked up once, and the address that was checked is the one connected to, so that no second answer
of the name server can lead elsewhere. Redirects are not followed, and proxies not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpx

from secondlook.engine.serve.openai.errors import ChatError

__all__ = ["Fetcher", "is_public"]

_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NEVER: Final = tuple(map(ipaddress.ip_network, ("::/96", "64:ff9b:1::/48")))
"""Networks that stand for IPv4 (RFC 4291, deprecated; RFC 8215, within a site), whatever they stand for."""

_LONGEST_SHOWN: Final = 200

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(text: str) -> bool:
    """Whether an address is one of the internet's: neither private, loopback, link-local nor the like, nor
    an IPv6 address that stands for such a one of IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    inner: list[Address | None] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inner += [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            inner.remove(address)
        if any(address in network for network in _NEVER):
            return False
    return all(one is None or (one.is_global and not one.is_multicast) for one in inner)


class Fetcher:
    """Fetches pictures of hosts.

    Args:
        hosts: whose pictures may be fetched; others are refused. A host alone is asked on the ports that
            belong to http and https, `host:port` on that port.
        seconds: for all of it.
        max_bytes: of a picture.
        allowed: whether an address may be connected to.
    """

    def __init__(
        self,
        hosts: Collection[str],
        seconds: float,
        max_bytes: int,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        self._allowed_hosts = frozenset(_host_and_port(urlsplit(f"//{host}")) for host in hosts)
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._allowed = allowed

    async def fetch(self, url: str, where: str, take: Callable[[int], None]) -> bytes:
        """What a URL leads to.

        Args:
            where: the field that has it, for errors.
            take: called with the number of bytes that came, each time; may raise.

        Raises:
            ChatError: it may not be fetched, or cannot be.
        """
        try:
            return await asyncio.wait_for(self._fetch(url, where, take), self._seconds)
        except asyncio.TimeoutError as error:
            raise _failed(url, f"it took longer than {self._seconds:g} seconds", where) from error
        except httpx.HTTPError as error:
            raise _failed(url, str(error) or type(error).__name__, where) from error

    async def _fetch(self, url: str, where: str, take: Callable[[int], None]) -> bytes:
        try:
            parts = urlsplit(url)
            usual = _PORTS[parts.scheme]
            host, port = _host_and_port(parts)
        except (ValueError, KeyError) as error:
            raise _refused(url, "it is no URL that can be fetched", where) from error
        port = usual if port is None else port
        if (host, port) not in self._allowed_hosts and (
            port != usual or (host, None) not in self._allowed_hosts
        ):
            named = host if port == usual else f"{host}:{port}"
            raise _refused(
                url,
                f"pictures of {named[:_LONGEST_SHOWN]!r} are not fetched (--allowed-media-domains)",
                where,
            )
        if parts.username is not None or parts.password is not None:
            raise _refused(url, "it has a user's name in it", where)
        address = await self._resolved(host, port, url, where)
        shown = f"[{address}]" if ":" in address else address
        try:
            target = httpx.URL(parts._replace(netloc=f"{shown}:{port}", fragment="").geturl())
        except httpx.InvalidURL as error:
            raise _refused(url, f"it is no URL that can be fetched ({error})", where) from error
        named = f"[{host}]" if ":" in host else host
        headers = {"Host": named if parts.port is None else f"{named}:{port}", "Accept-Encoding": "identity"}
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=self._seconds) as client,
            client.stream("GET", target, headers=headers, extensions={"sni_hostname": host}) as response,
        ):
            if response.status_code != 200:
                raise _failed(
                    url, f"the server answers {response.status_code}; redirects are not followed", where
                )
            got = bytearray()
            async for more in response.aiter_raw():
                take(len(more))
                got += more
                if len(got) > self._max_bytes:
                    raise _failed(url, f"it has more than the limit of {self._max_bytes} bytes", where)
            return bytes(got)

    async def _resolved(self, host: str, port: int, url: str, where: str) -> str:
        """The address to connect to."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise _failed(url, f"{host} has no address: {error}", where) from error
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(map(self._allowed, addresses)):
            raise _refused(url, f"{host} has an address that is not of the internet", where)
        return addresses[0]


def _host_and_port(parts: SplitResult) -> tuple[str, int | None]:
    return (parts.hostname or "").rstrip("."), parts.port


def _refused(url: str, why: str, where: str) -> ChatError:
    return ChatError(
        f"the picture {url[:_LONGEST_SHOWN]!r} is not fetched: {why}; send it as data:image/jpeg;base64,...",
        code="image_url_not_allowed",
        param=where,
    )


def _failed(url: str, why: str, where: str) -> ChatError:
    return ChatError(
        f"the picture {url[:_LONGEST_SHOWN]!r} could not be fetched: {why}",
        code="image_fetch_failed",
        param=where,
    )
