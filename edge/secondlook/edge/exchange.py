"""One request and its repetitions, as a generator: the client's protocol without input or output of its own.

It yields effects (`Call`, `Pause`, `Work`) and is sent their results; what goes wrong in an effect is thrown
into it. The blocking and the asynchronous client take the same steps, each in its own way.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

import httpx
from pydantic import ValidationError

from .errors import (
    ClientError,
    ConnectionFailedError,
    RequestRefusedError,
    ServerBusyError,
    UnexpectedReplyError,
)
from .retry import BUSY_STATUSES, GATEWAY_STATUSES, ClientSettings, backoff_seconds, retry_after_seconds
from .wire import ErrorReply, WireModel

__all__ = [
    "Call",
    "Effect",
    "Failure",
    "LostError",
    "Patience",
    "Pause",
    "Steps",
    "Surroundings",
    "Traffic",
    "Work",
    "ask",
    "resume",
    "work",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """Send one request; the result is an `httpx.Response`, or `LostError` is thrown.

    Attributes:
        data: text parts, beside images.
        images: JPEG parts by their names.
        message: the whole body, as JSON, in place of parts.
        headers: of this request alone.
        timeout: seconds, where the client's own is too long.
    """

    method: str
    path: str
    data: dict[str, str] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict, repr=False)
    message: WireModel | None = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float | None = None

    def parts(self) -> dict[str, Any]:
        """Headers, body and timeout, as arguments for `httpx.Client.build_request`."""
        parts: dict[str, Any] = {} if self.timeout is None else {"timeout": self.timeout}
        parts["headers"] = self.headers
        if self.message is not None:
            json = {"content-type": "application/json"}
            parts |= {
                "content": self.message.model_dump_json(exclude_none=True),
                "headers": self.headers | json,
            }
        elif self.images:
            files = {name: (f"{name}.jpg", jpeg, "image/jpeg") for name, jpeg in self.images.items()}
            parts |= {"data": self.data, "files": files}
        return parts


class LostError(Exception):
    """There was no reply to a request.

    Attributes:
        travelled: whether its body may have been sent.
        hopeless: whether it would come to the same if it were repeated.
    """

    def __init__(self, reason: str, travelled: bool, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.travelled = travelled
        self.hopeless = hopeless


@dataclass(frozen=True)
class Pause:
    """Let this many seconds pass."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Compute something that takes a while; the result is the function's, or what it raises is thrown.

    What is awaitable of its results is awaited where it can be.
    """

    function: Callable[[], object]


@dataclass(frozen=True)
class Failure:
    """What an effect raised, to be thrown into the steps."""

    error: Exception


Effect: TypeAlias = Call | Pause | Work

Result = TypeVar("Result")
Message = TypeVar("Message", bound=WireModel)
# What is sent in depends on the effect that was yielded, which Python's types cannot say: hence Any.
Steps: TypeAlias = Generator[Effect, Any, Result]


@dataclass(frozen=True)
class Surroundings:
    """What the steps read from the world; replaced in tests.

    Attributes:
        clock: seconds, for durations only.
        now: the current time with its time zone, for dates in Retry-After.
        jitter: a random number from 0 to 1.
    """

    clock: Callable[[], float]
    now: Callable[[], datetime]
    jitter: Callable[[], float]


@dataclass
class Patience:
    """How one question's requests are repeated, and the seconds that all of them have left for it."""

    settings: ClientSettings
    left: float = field(init=False)
    noted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.left = self.settings.wait_budget


@dataclass
class Traffic:
    """Bytes of request and reply bodies, repetitions included."""

    up: int = 0
    down: int = 0


def resume(steps: Steps[Result], outcome: object) -> Effect:
    """Tell what came of the last effect; the next effect, or StopIteration with the result."""
    return steps.throw(outcome.error) if isinstance(outcome, Failure) else steps.send(outcome)


def work(function: Callable[[], Result | Awaitable[Result]]) -> Steps[Result]:
    """The result of `function`, computed wherever the driver computes."""
    result: Result = yield Work(function)
    return result


def ask(
    call: Call,
    message: type[Message],
    traffic: Traffic,
    patience: Patience,
    surroundings: Surroundings,
    lasting: float = math.inf,
) -> Steps[Message]:
    """One request, repeated while there is patience, until there is a message or no hope.

    Repeated are requests that met connection loss, 429, 503 or a gateway that lost its server; every other
    status is the server's last word. What a failed attempt took is waiting too, and taken from the patience.

    Args:
        lasting: seconds from now after which an answer would come too late; no wait goes beyond.

    Raises:
        ConnectionFailedError, ServerBusyError: there is no hope, or the next wait is longer than the patience
            or that time, or the settings' repetitions are used up.
        RequestRefusedError: any other status than success.
        UnexpectedReplyError: success, but no such message.
    """
    clock, settings = surroundings.clock, patience.settings
    end = clock() + lasting
    attempt = 0
    while True:
        failure: Callable[[str], ClientError]
        asked_for = 0.0
        before = clock()
        try:
            response: httpx.Response = yield call
        except LostError as lost:
            failure, reason = ConnectionFailedError, str(lost)
            if lost.travelled:
                traffic.up += sum(map(len, call.images.values()))  # how much of it travelled is unknown
            if lost.hopeless:
                raise ConnectionFailedError(reason) from lost
        else:
            traffic.up += int(response.request.headers.get("content-length", 0))
            traffic.down += len(response.content)
            status = response.status_code
            busy = status in BUSY_STATUSES
            if not busy and not _is_gateways(response):
                return _read(response, message)
            failure = partial(ServerBusyError, status)
            what = "the server is busy" if busy else "a gateway does not reach its server"
            reason = f"{what} ({status}): {_reason(response)}"
            asked_for = retry_after_seconds(response.headers.get("retry-after"), surroundings.now()) or 0.0
        now = clock()
        patience.left -= now - before
        attempt += 1
        tried = "tried once" if attempt == 1 else f"tried {attempt} times"
        if settings.retries is not None and attempt > settings.retries:
            raise failure(f"{reason} ({tried})")
        wait = max(asked_for, backoff_seconds(settings, attempt - 1, surroundings.jitter()))
        if wait > min(patience.left, end - now):
            raise failure(
                f"{reason} ({tried}; the next wait of {wait:.3g} s is longer than there is time for)"
            )
        _note(call, f"{reason}; asking again in {wait:.2f} s", patience)
        yield Pause(wait)
        patience.left -= wait


def _note(call: Call, text: str, patience: Patience) -> None:
    """The first repetition is worth a warning: it may go on for as long as there is patience."""
    if patience.noted:
        logger.info("%s %s: %s", call.method, call.path, text)
    else:
        patience.noted = True
        logger.warning("%s, for up to %.0f s", text, patience.left)


def _read(response: httpx.Response, message: type[Message]) -> Message:
    if not response.is_success:
        raise RequestRefusedError(response.status_code, _reason(response))
    try:
        return message.read(response.content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        asked = response.request.url.copy_with(userinfo=b"")
        raise UnexpectedReplyError(
            f"{asked} did not answer with a {message.__name__} ({where}: {first['msg']}); "
            "is this a secondlook server of the same version?"
        ) from error


def _is_gateways(response: httpx.Response) -> bool:
    """Whether an error is of what stands between, not of the server, which would say it in its own words."""
    if response.status_code not in GATEWAY_STATUSES:
        return False
    try:
        ErrorReply.model_validate_json(response.content)
    except ValidationError:
        return True
    return False


def _reason(response: httpx.Response) -> str:
    """The server's own words, in one line, or the status's name if it is not a secondlook server's reply."""
    if response.has_redirect_location:
        return f"it points to {response.headers['location']}; use that address"
    try:
        reason = ErrorReply.model_validate_json(response.content).message
    except ValidationError:
        reason = response.reason_phrase
    reason = " ".join(reason.split()) or "no reason given"
    path = response.request.url.path
    if response.status_code == 404 and path.count("/v1") > 1:
        reason += f": {path}; the server's address goes without /v1"
    elif response.status_code == 401:
        reason += "; the key is given with --api-key, or in SECONDLOOK_API_KEY"
    elif response.status_code == 404 and path.endswith("/v1/streams"):
        reason += "; streams are a site's (secondlook site), not a plain server's"
    return reason
