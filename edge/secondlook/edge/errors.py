"""The project's one exception tree.

SecondLookError
├── PictureError            a picture cannot be used
│   ├── NotAPictureError        not an image, empty, or truncated
│   └── PictureTooLargeError    more pixels than the limit, or a decompression bomb
├── GeometryError           sizes, regions or grids that contradict each other
├── SettingsError           a setting out of its range
├── SourceError             a camera, a video or a folder of pictures cannot be read
│   ├── NoFrameError            no new frame in the time given; one may come yet
│   └── StillPictureError       a camera answers with one picture, and no stream of them
├── WriteError              a file cannot be written; what was there before is there still
├── ClientError             the edge's side of a conversation failed
│   ├── ConnectionFailedError   the server could not be reached, after all retries
│   ├── ServerBusyError         429, 503 or a gateway without its server, after all retries; carries status
│   ├── RequestRefusedError     any other status the server answered; carries status and reason
│   └── UnexpectedReplyError    an answer that is not of this protocol: another server
│       └── ProtocolError           another version of this protocol; a server raises it of a client, too
└── (the engine's own branches are drawn in secondlook.engine.errors)
"""

from __future__ import annotations

__all__ = [
    "ClientError",
    "ConnectionFailedError",
    "GeometryError",
    "NoFrameError",
    "NotAPictureError",
    "PictureError",
    "PictureTooLargeError",
    "ProtocolError",
    "RequestRefusedError",
    "SecondLookError",
    "ServerBusyError",
    "SettingsError",
    "SourceError",
    "StillPictureError",
    "UnexpectedReplyError",
    "WriteError",
]


class SecondLookError(Exception):
    """Every error that secondlook raises on purpose; its message is fit to show a user."""


class PictureError(SecondLookError):
    """A picture cannot be used."""


class NotAPictureError(PictureError):
    """The bytes are not an image, are empty, or stop too early."""


class PictureTooLargeError(PictureError):
    """The picture declares more pixels than the limit; it was not decoded."""


class GeometryError(SecondLookError):
    """A size, region or grid is impossible, or contradicts another."""


class SettingsError(SecondLookError):
    """A setting is out of its range; the message names it, its value and what is possible."""


class SourceError(SecondLookError):
    """A camera, a video or a folder of pictures cannot be opened, or has broken off."""


class NoFrameError(SourceError):
    """There was no new frame in the time given; the source may still give one."""


class StillPictureError(SourceError):
    """A camera answers a request with one picture, where a stream of them was looked for."""


class WriteError(SecondLookError):
    """A file cannot be written; what was there before is there still."""


class ClientError(SecondLookError):
    """The edge's side of a conversation with the server failed."""


class ConnectionFailedError(ClientError):
    """The server could not be reached, or did not answer in time, after all retries."""


class RequestRefusedError(ClientError):
    """The server refused a request for good.

    Attributes:
        status: the HTTP status code.
        reason: the server's one-line explanation.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server refused the request ({status}): {reason}")
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type[RequestRefusedError], tuple[int, str]]:
        return type(self), (self.status, self.reason)  # by default a copy would be made of the message alone


class ServerBusyError(ClientError):
    """The server still answered 429 or 503 after all retries, or a gateway that it has lost its server.

    Attributes:
        status: the HTTP status code.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type[ServerBusyError], tuple[int, str]]:
        return type(self), (self.status, self.reason)  # as RequestRefusedError's


class UnexpectedReplyError(ClientError):
    """The server answered with success, but not with a message of this protocol."""


class ProtocolError(UnexpectedReplyError):
    """The other side, server or client, speaks another major version of the protocol."""
