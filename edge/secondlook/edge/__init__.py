"""What runs on the device: preparing pictures, and asking a server about them. No torch, no numpy, no model.

from secondlook.edge import EdgeClient

with EdgeClient("http://server:8000") as client:
    print(client.ask("street.jpg", "What number is on the red sign?").text)
"""

from .answer import *
from .client import *
from .conversation import *
from .errors import *
from .frames import *
from .geometry import *
from .imaging import *
from .retry import *
from .sources import *
from .wire import *

__all__ = [
    "GLOBAL_JPEG",
    "LOCAL_JPEG",
    "PROTOCOL",
    "Answer",
    "AnswerOptions",
    "AnswerReply",
    "AsyncEdgeClient",
    "Box",
    "Budget",
    "ClientError",
    "ClientSettings",
    "ConnectionFailedError",
    "EdgeAnswer",
    "EdgeClient",
    "EncodedPicture",
    "ErrorReply",
    "Fixed",
    "Frame",
    "GeometryError",
    "GridMap",
    "JpegSettings",
    "Limits",
    "ModelCard",
    "NoFrameError",
    "NotAPictureError",
    "Picture",
    "PictureError",
    "PictureLimits",
    "PictureTooLargeError",
    "Placement",
    "ProtocolError",
    "Rectangle",
    "Region",
    "Relevance",
    "RequestRefusedError",
    "SecondLookError",
    "ServerBusyError",
    "SettingsError",
    "Size",
    "Source",
    "SourceError",
    "Stage",
    "StageSeconds",
    "UnexpectedReplyError",
    "View",
    "decode_jpeg",
    "fit_to_view",
    "open_picture",
    "open_source",
    "place",
    "sent_size",
    "target",
]
