"""What runs on the device: preparing pictures, and asking a server about them. No torch, no numpy, no model.

from secondlook.edge import EdgeClient

with EdgeClient("http://server:8000") as client:
    print(client.ask("street.jpg", "What number is on the red sign?").text)
"""

from .answer import *
from .camera import *
from .client import *
from .conversation import *
from .errors import *
from .frames import *
from .geometry import *
from .imaging import *
from .retry import *
from .sources import *
from .stream import *
from .wire import *
from .wire_stream import *

__all__ = [
    "GLOBAL_JPEG",
    "LOCAL_JPEG",
    "MOST_DETAILS",
    "PROTOCOL",
    "Answer",
    "AnswerOptions",
    "AnswerReply",
    "AsyncEdgeClient",
    "AsyncEdgeStream",
    "Box",
    "Budget",
    "By",
    "ClientError",
    "ClientSettings",
    "ConnectionFailedError",
    "Detail",
    "EdgeAnswer",
    "EdgeClient",
    "EdgeStream",
    "EncodedPicture",
    "ErrorReply",
    "Fixed",
    "FocusAt",
    "Frame",
    "FrameHeader",
    "FrameReply",
    "GeometryError",
    "HistoryEntry",
    "JpegSettings",
    "Limits",
    "ModelCard",
    "NoFrameError",
    "NotAPictureError",
    "Original",
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
    "RingLimits",
    "SecondLookError",
    "ServerBusyError",
    "SettingsError",
    "Size",
    "Source",
    "SourceError",
    "Stage",
    "StageSeconds",
    "StreamCard",
    "StreamEvent",
    "StreamOptions",
    "StreamSummary",
    "UnexpectedReplyError",
    "View",
    "Wanted",
    "Window",
    "decode_jpeg",
    "fit_to_view",
    "open_picture",
    "open_source",
    "place",
    "sent_size",
    "target",
]
