"""What runs on the device: preparing pictures, and asking a server about them. No torch, no numpy, no model.

from secondlook.edge import EdgeClient

with EdgeClient("http://server:8000") as client:
    print(client.ask("street.jpg", "What number is on the red sign?").text)
"""

from .answer import EdgeAnswer, StageSeconds
from .client import AsyncEdgeClient, EdgeClient
from .conversation import Stage
from .errors import (
    ClientError,
    ConnectionFailedError,
    GeometryError,
    NotAPictureError,
    PictureError,
    PictureTooLargeError,
    RequestRefusedError,
    SecondLookError,
    ServerBusyError,
    SettingsError,
    UnexpectedReplyError,
)
from .geometry import GridMap, Placement, Rectangle, Region, Size, place
from .imaging import (
    GLOBAL_JPEG,
    LOCAL_JPEG,
    EncodedPicture,
    JpegSettings,
    Picture,
    PictureLimits,
    decode_jpeg,
    fit_to_square,
    open_picture,
)
from .retry import ClientSettings
from .wire import Answer, AnswerOptions, AnswerReply, Box, ErrorReply, ModelCard, ResizeMode

__all__ = [
    "GLOBAL_JPEG",
    "LOCAL_JPEG",
    "Answer",
    "AnswerOptions",
    "AnswerReply",
    "AsyncEdgeClient",
    "Box",
    "ClientError",
    "ClientSettings",
    "ConnectionFailedError",
    "EdgeAnswer",
    "EdgeClient",
    "EncodedPicture",
    "ErrorReply",
    "GeometryError",
    "GridMap",
    "JpegSettings",
    "ModelCard",
    "NotAPictureError",
    "Picture",
    "PictureError",
    "PictureLimits",
    "PictureTooLargeError",
    "Placement",
    "Rectangle",
    "Region",
    "RequestRefusedError",
    "ResizeMode",
    "SecondLookError",
    "ServerBusyError",
    "SettingsError",
    "Size",
    "Stage",
    "StageSeconds",
    "UnexpectedReplyError",
    "decode_jpeg",
    "fit_to_square",
    "open_picture",
    "place",
]
