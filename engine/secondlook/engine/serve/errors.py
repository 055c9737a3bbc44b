"""Errors as HTTP: one table from exceptions to statuses, and every error body an ErrorReply.

But on the paths of OpenAI's interface it is what its clients read: `secondlook.engine.serve.openai.errors`.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from secondlook.edge.errors import (
    ConnectionFailedError,
    GeometryError,
    NotAPictureError,
    PictureTooLargeError,
    ProtocolError,
    RequestRefusedError,
    SecondLookError,
    ServerBusyError,
    SettingsError,
    SourceError,
    UnexpectedReplyError,
)
from secondlook.edge.wire import ErrorReply
from secondlook.engine import errors
from secondlook.engine.serve.openai.errors import ChatError, error_body, speaks_openai
from secondlook.engine.serve.requests import CLIENT_LEFT, REQUEST_ID_HEADER, request_id, shown_path

__all__ = [
    "BodyTooLargeError",
    "ClientLeftError",
    "ForeignPageError",
    "InvalidFieldError",
    "TooManyBodiesError",
    "UnsupportedContentError",
    "add_error_handlers",
    "describe",
    "error_content",
    "reply_to",
    "told",
]

_log = logging.getLogger(__name__)

_NOT_READY_RETRY_SECONDS = 2.0
"""Retry-After while the model is being loaded, the server goes away, or memory is short."""


class BodyTooLargeError(HTTPException):
    """The body exceeds the limit. An HTTPException, as frameworks pass that on from the middle of a body."""

    def __init__(self, max_body_bytes: int) -> None:
        limit = f"the body is larger than the limit of {max_body_bytes} bytes"
        super().__init__(413, f"{limit}; send a smaller picture, or one of lower quality")


class TooManyBodiesError(HTTPException):
    """The bodies that the server holds leave no room for this one. An HTTPException for the same reason."""

    def __init__(self, whose: str, limit: int) -> None:
        told = f"with this body the requests {whose} would hold more than {limit} bytes; try again later"
        super().__init__(429, told, {"Retry-After": "1"})


class ClientLeftError(HTTPException):
    """The client closed the connection, amid its body or before the reply, which nobody reads."""

    def __init__(self) -> None:
        super().__init__(CLIENT_LEFT, "the client closed the connection")


class UnsupportedContentError(SecondLookError):
    """A request, or its image, is of a content type that the server does not take."""


class ForeignPageError(SecondLookError):
    """A page of another site asks what only pages of this one may."""


class InvalidFieldError(SecondLookError):
    """A form field has an impossible value."""


_STATUSES: dict[type[Exception], tuple[int, str]] = {
    UnsupportedContentError: (415, "unsupported_content_type"),
    ProtocolError: (400, "incompatible_protocol"),
    ForeignPageError: (403, "foreign_page"),
    InvalidFieldError: (422, "invalid_field"),
    SettingsError: (422, "invalid_options"),
    NotAPictureError: (422, "not_a_picture"),
    PictureTooLargeError: (422, "picture_too_large"),
    GeometryError: (422, "picture_mismatch"),
    errors.PictureMismatchError: (422, "picture_mismatch"),
    errors.EmptyQuestionError: (422, "empty_question"),
    errors.QuestionTooLongError: (422, "question_too_long"),
    errors.QuestionError: (422, "invalid_question"),
    errors.UnknownSessionError: (404, "unknown_session"),
    errors.ExpiredSessionError: (410, "expired_session"),
    errors.AnsweredSessionError: (409, "answered_session"),
    errors.UnknownStreamError: (404, "unknown_stream"),
    errors.QueueFullError: (429, "queue_full"),
    errors.TooManyStreamsError: (429, "too_many_streams"),
    errors.RateLimitError: (429, "rate_limited"),
    errors.UnauthorizedError: (401, "unauthorized"),
    errors.ModelNotReadyError: (503, "model_not_ready"),
    errors.ShuttingDownError: (503, "shutting_down"),
    errors.OutOfMemoryError: (503, "out_of_memory"),
    errors.EngineFailedError: (500, "engine_failed"),
    errors.UpstreamError: (502, "upstream_failed"),
    errors.UpstreamAwayError: (503, "upstream_away"),
    errors.UpstreamTimeoutError: (504, "upstream_timeout"),
    # Of a gateway, which stands between a camera and a server.
    errors.UnknownFrameError: (404, "unknown_frame"),
    SourceError: (503, "camera_failed"),
    ConnectionFailedError: (503, "server_unreachable"),
    ServerBusyError: (503, "server_busy"),
    RequestRefusedError: (502, "server_refused"),
    UnexpectedReplyError: (502, "server_refused"),
    SecondLookError: (500, "server_error"),
}
"""An exception has the entry of its nearest class."""

_FRAMEWORK_NAMES = {
    400: "malformed_body",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    429: "queue_full",
}

_DESCRIPTIONS = {
    400: "The client speaks another version of the protocol, or the body is not well-formed multipart.",
    401: "The server wants a key, and the request has none of its keys.",
    403: "A page of another site asks, or by a name that is not known here.",
    404: "No such session, no such stream, or no such frame.",
    408: "The body did not arrive in time.",
    409: "The session is answered already, or being answered.",
    410: "The session expired or was given up: the first answer stands.",
    413: "The body is too large.",
    415: "The body is not of the type described here, or a picture not image/jpeg.",
    422: "A field is missing or impossible, the image is not a whole JPEG, or the sizes contradict it.",
    429: "The queue is full, or a client's share of it, or the memory for bodies, or the number of streams, "
    "or a key's limit is reached; Retry-After says when to come back.",
    500: "The model failed on this question; the server goes on.",
    502: "The server behind this one refuses what it is asked, or is none.",
    503: "The model is still being loaded, the server is shutting down, there is no memory for this, or the "
    "server behind this one is away.",
    504: "The server behind this one did not answer in time.",
}


def describe(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` for error statuses."""
    return {status: {"model": ErrorReply, "description": _DESCRIPTIONS[status]} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Make every error that `app` answers an ErrorReply."""
    app.add_exception_handler(SecondLookError, reply_to)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_unforeseen_error)


def told(error: SecondLookError) -> tuple[int, str, dict[str, str]]:
    """Status, name and headers of an error of ours; what nobody foresaw is logged."""
    if isinstance(error, ChatError):
        return error.status, error.code, {}
    status, name = next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)
    headers = {}
    if isinstance(error, errors.QueueFullError):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    elif isinstance(error, errors.UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"  # RFC 6750, section 3
    elif status == 503:
        headers["Retry-After"] = str(math.ceil(_NOT_READY_RETRY_SECONDS))
    if status == 500 and not isinstance(
        error, errors.EngineFailedError
    ):  # that one was logged where it happened
        _log.error("a question failed", exc_info=error)
    return status, name, headers


def error_content(
    path: str, status: int, name: str, message: str, param: str | None = None
) -> dict[str, Any]:
    """The body of an error as the clients of a path read it, which is without what a proxy put before it."""
    if speaks_openai(path):
        return error_body(status, name, message, param)
    return ErrorReply(error=name, message=message).model_dump()


async def reply_to(request: Request, error: Exception) -> JSONResponse:
    """What is answered to a request that an error of ours ends."""
    assert isinstance(error, SecondLookError), "registered for this type"
    status, name, headers = told(error)
    return _reply(request, status, name, str(error), headers, getattr(error, "param", None))


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), "registered for this type"
    problems = error.errors()
    if any(problem["loc"] == ("body", "question") and problem["type"] == "missing" for problem in problems):
        return _reply(
            request, 422, "empty_question", "the field `question` is missing or empty; send a question"
        )
    return _reply(request, 422, "invalid_field", "; ".join(map(_problem, problems)))


def _problem(problem: dict[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"the body is no JSON, from its character {problem['loc'][-1]} on: {problem['ctx']['error']}"
    field = ".".join(map(str, problem["loc"][1:])) or "the body"
    if "UploadFile" in problem["msg"]:
        # To the parser a part without a file name is a form field, and pydantic says so in Python's words.
        return (
            f"{field}: this part has no filename, so it is no file: send it with `filename=` in its "
            "Content-Disposition, and Content-Type: image/jpeg"
        )
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}"


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for this type"
    name, message = _FRAMEWORK_NAMES.get(error.status_code, "http_error"), str(error.detail)
    if error.status_code == 404:
        message = f"there is no {shown_path(request.scope['path'])} here; /docs tells what there is"
    return _reply(request, error.status_code, name, message, dict(error.headers or {}))


async def _on_unforeseen_error(request: Request, _error: Exception) -> JSONResponse:
    # Not logged here: the framework raises the exception again, and the ASGI server logs it.
    # The middleware that adds the request's id to replies is not around this one.
    headers = {REQUEST_ID_HEADER: request_id.get()}
    return _reply(
        request, 500, "server_error", "the server failed on this request; its log says why", headers
    )


def _reply(
    request: Request,
    status: int,
    name: str,
    message: str,
    headers: dict[str, str] | None = None,
    param: str | None = None,
) -> JSONResponse:
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if speaks_openai(path) and status == 422:
        status = 400  # which its clients expect of a wrong request
    return JSONResponse(error_content(path, status, name, message, param), status, headers)
