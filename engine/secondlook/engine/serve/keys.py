"""Keys: who may ask, and how much.

A line of the file is `name:sha256`, and perhaps `:concurrent=8,looks=120,bytes=50M`: who asks, the SHA-256 of
the key in hexadecimal, and the limits of whoever asks by that name, in place of the usual ones. Empty lines
and those that begin with # say nothing. A name may have several lines, so that a key can be exchanged for
another while both are good; its limits stand in the first. The file is read again once it has changed.

Nothing here knows of HTTP.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from secondlook.edge.errors import SettingsError
from secondlook.engine.errors import RateLimitError, UnauthorizedError
from secondlook.engine.serve.settings import KeyLimits

__all__ = ["Asking", "Key", "KeyRing", "Meter", "owner_of", "read_keys"]

_log = logging.getLogger(__name__)

_CLIENT: Final = "key:"
"""Begins the client's name of whoever has a key; no address begins so."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
_LIMITS: Final = {"concurrent": "concurrent", "looks": "looks_per_minute", "bytes": "bytes_per_minute"}
_NUMBER: Final = re.compile(r"([0-9]+)([KMG]?)")
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}

_MINUTE: Final = 60.0
_BUSY_SECONDS: Final = 1.0
"""Retry-After where questions in progress are too many: how long they take, nobody knows."""


@dataclass(frozen=True)
class Key:
    """One of the file's.

    Attributes:
        name: who has it.
        digest: its SHA-256.
        limits: of all keys of that name together.
    """

    name: str
    digest: bytes
    limits: KeyLimits

    @property
    def client(self) -> str:
        """Who asks, to everything behind."""
        return f"{_CLIENT}{self.name}"


def owner_of(client: str) -> str:
    """Whose a client's sessions and streams are: the key's, or of whoever holds their ids ("")."""
    return client if client.startswith(_CLIENT) else ""


def read_keys(path: Path, usual: KeyLimits) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        SettingsError: it cannot be read, has no keys, or a line is none; what is in the line is not told, for
            it may be a key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SettingsError(f"the keys of {path} cannot be read: {why}") from error
    keys: list[Key] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            keys.append(_key(line.strip(), keys, usual))
        except ValueError as error:
            raise SettingsError(f"{path}, line {number}: {error}") from None
    if not keys:
        raise SettingsError(f"{path} has no keys, so that nobody could ask; a line is name:sha256")
    return tuple(keys)


def _key(line: str, before: list[Key], usual: KeyLimits) -> Key:
    name, named, rest = line.partition(":")
    digest, colon, limits = rest.partition(":")
    if not named or not _NAME.fullmatch(name):
        raise ValueError(
            "the name has 1 to 64 letters, digits, dots, dashes or underscores, and a colon follows"
        )
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"behind {name!r} and a colon stand the 64 hexadecimal digits of the key's SHA-256")
    if any(bytes.fromhex(digest) == key.digest for key in before):
        raise ValueError(f"the key of {name!r} is there already")
    same = next((key for key in before if key.name == name), None)
    if same is not None and colon:
        raise ValueError(f"the limits of {name!r} stand in its first line only")
    found = usual if same is None else same.limits
    if colon:
        found = replace(usual, **dict(_limit(part.strip()) for part in limits.split(",")))
    return Key(name, bytes.fromhex(digest), found)


def _limit(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    number = _NUMBER.fullmatch(value)
    if name not in _LIMITS or number is None or int(number[1]) == 0:
        raise ValueError(
            f"the limits are concurrent=NUMBER, looks=NUMBER and bytes=NUMBER (K, M or G), not {text!r}"
        )
    return _LIMITS[name], int(number[1]) * _UNITS[number[2]]


class KeyRing:
    """The keys of a file, as it is now.

    A file that has become unreadable, or wrong, leaves the keys as they were, and the log tells.

    Raises:
        SettingsError: see `read_keys`.
    """

    def __init__(self, path: Path, usual: KeyLimits) -> None:
        self._path = path
        self._usual = usual
        self._seen = self._stamp()
        self._keys = read_keys(path, usual)

    def find(self, secret: bytes | None) -> Key:
        """Whose key it is; compared with all, in a time that does not depend on it.

        Raises:
            UnauthorizedError: nobody's, or None.
        """
        self._read_again()
        digest, found = sha256(secret or b"").digest(), None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest) and secret is not None:
                found = key
        if found is None:
            said = "has no key" if secret is None else "has a key that this server does not know"
            raise UnauthorizedError(f"the request {said}; send yours as `Authorization: Bearer KEY`")
        return found

    def _read_again(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read_keys(self._path, self._usual)
        except SettingsError as error:
            _log.error("the keys stay as they were: %s", error)
        else:
            _log.warning("read %d keys again from %s", len(self._keys), self._path)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None  # reading it will say why
        return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass
class _Asked:
    """By one name: requests in progress, and when looks and bytes of the past will not count any more."""

    now: int = 0
    looks_until: float = 0.0
    bytes_until: float = 0.0


class Asking:
    """A request in progress: its key pays for what it takes."""

    def __init__(self, key: Key, asked: _Asked, clock: Callable[[], float]) -> None:
        self._limits = key.limits
        self._asked = asked
        self._clock = clock

    def looked(self) -> None:
        """It takes a look."""
        limit = self._limits.looks_per_minute
        self._asked.looks_until = self._more(limit, self._asked.looks_until, 1)

    def arrived(self, nbytes: int) -> None:
        """So many bytes more came for it."""
        limit = self._limits.bytes_per_minute
        self._asked.bytes_until = self._more(limit, self._asked.bytes_until, nbytes)

    def _more(self, limit: int | None, until: float, count: int) -> float:
        return until if limit is None else max(until, self._clock()) + count * _MINUTE / limit


class Meter:
    """Counts what is asked, and refuses what is too much.

    Looks and bytes flow away evenly, each minute as many as a minute may have: the generic cell rate
    algorithm (ITU-T I.371), whose state is one time. A request is let in as long as there is anything left,
    and pays for its bytes as they arrive, and for a second look as it takes it; what it has too much, later
    ones wait for.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: defaultdict[str, _Asked] = defaultdict(_Asked)

    @contextmanager
    def asking(self, key: Key) -> Iterator[Asking]:
        """A request, in progress while the block runs; it has paid for one look.

        Raises:
            RateLimitError: a limit is reached.
        """
        asked, limits = self._asked[key.name], key.limits
        if limits.concurrent is not None and asked.now >= limits.concurrent:
            told = f"{asked.now} questions in progress, and may have no more at once"
            raise RateLimitError(f"the key {key.name!r} has {told}; try again later", _BUSY_SECONDS)
        self._check(key, "looks", limits.looks_per_minute, asked.looks_until)
        self._check(key, "bytes", limits.bytes_per_minute, asked.bytes_until)
        asking = Asking(key, asked, self._clock)
        asking.looked()
        asked.now += 1
        try:
            yield asking
        finally:
            asked.now -= 1

    def _check(self, key: Key, what: str, limit: int | None, until: float) -> None:
        if limit is None:
            return
        wait = until + _MINUTE / limit - _MINUTE - self._clock()
        if wait > 0:
            raise RateLimitError(
                f"the key {key.name!r} has used its {limit} {what} a minute; try again later", wait
            )
