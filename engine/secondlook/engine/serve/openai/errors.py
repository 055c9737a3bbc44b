"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`, on their routes alone."""

from __future__ import annotations

from typing import Any, Final

from secondlook.edge.errors import SecondLookError

__all__ = ["ChatError", "error_body", "speaks_openai", "unsupported"]

_PREFIXES: Final = tuple(
    f"/v1/{name}"
    for name in (
        "chat",
        "models",
        "completions",
        "responses",
        "embeddings",
        "audio",
        "images",
        "files",
        "batches",
        "moderations",
    )
)
_PATHS: Final = frozenset({"/health", "/version"})

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ChatError(SecondLookError):
    """A request in OpenAI's format cannot be answered.

    Attributes:
        code: a stable name.
        param: the field that is to blame.
        status: of HTTP.
    """

    def __init__(
        self, message: str, *, code: str = "invalid_request", param: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.status = status


def unsupported(param: str, value: str, instead: str) -> ChatError:
    """The refusal of a value that OpenAI's models take, or some of them."""
    return ChatError(
        f"{param} is {value}, which is not supported: {instead}", code="unsupported_value", param=param
    )


def speaks_openai(path: str) -> bool:
    """Whether a path, without what a proxy put before it, is one of OpenAI's interface, there or not."""
    return path in _PATHS or any(path == prefix or path.startswith(f"{prefix}/") for prefix in _PREFIXES)


def error_body(status: int, name: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error.

    Args:
        name: told as its code.
    """
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": name}}
