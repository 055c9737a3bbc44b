"""The engine's branches of the project's exception tree.

SecondLookError (secondlook.edge.errors)
├── ModelError              a model cannot be loaded or used
│   ├── ModelNotFoundError      no such folder, or no such name on the hub
│   ├── IncompleteModelError    files or weights are missing
│   ├── UnsupportedModelError   an architecture or layout the engine does not serve
│   ├── InvalidModelError       a file of the model is broken or contradicts another
│   ├── DeviceError             the device does not exist here, or is not usable
│   ├── NonFiniteError          the model computed NaN or infinity
│   └── EncoderError            an exported vision encoder cannot be used
│       ├── InvalidEncoderError     its folder is incomplete, truncated, or not as it was exported
│       ├── EncoderMismatchError    it was made from another model, or for another machine
│       │   └── RebuildNeededError      no plan of it runs here; one can be built (encoders.plan_store)
│       ├── UntrustedPlanError      a TensorRT plan from elsewhere, not asked for by name (likewise)
│       └── RuntimeMissingError     the runtime that it needs is not installed, or cannot do it
├── QuestionError           a question cannot be answered
│   ├── EmptyQuestionError      nothing but white space
│   ├── QuestionTooLongError    over the character limit, or over the model's context
│   └── ReservedTextError       contains text the model reserves, such as `<image>`
├── SessionError            a pending second look cannot be continued
│   ├── UnknownSessionError     never existed, or was forgotten
│   ├── ExpiredSessionError     its time ran out, or it was given up
│   └── AnsweredSessionError    it already has its final answer
├── StreamError             a stream cannot be opened, or gone on with
│   ├── UnknownStreamError      never existed, or has ended
│   └── LostDetailError         the camera did not send a detail of a frame while that was of use
├── UnknownFrameError       a camera's frame is not held, or no more
├── PolicyFileError         a calibrated policy cannot be read, or is for another model
├── PictureMismatchError    a picture contradicts the sizes it was announced with
├── QueueFullError          too many questions are waiting; carries retry_after
│   ├── TooManyStreamsError     too many streams are open, or too many watch one
│   └── RateLimitError          a key's limit is reached
├── UnauthorizedError       a request has no key, or one that is not known
├── ModelNotReadyError      the server is still loading its model, or could not
├── OutOfMemoryError        there is no memory for one question; the others go on
├── EngineFailedError       the model failed on one question, in a way nobody foresaw
├── UpstreamError           the server that has the model refuses, or breaks off (secondlook.engine.upstream)
│   ├── UpstreamAwayError       it cannot be reached, or is too busy, also after some tries
│   └── UpstreamTimeoutError    it did not answer in time
├── ShuttingDownError       the server is stopping
├── UnsupportedContentError a request or its image is of another content type (serve.errors)
├── ForeignPageError        a page of another site asks the gateway (serve.errors)
├── InvalidFieldError       a form field has an impossible value (serve.errors)
├── AddressError            the server cannot listen there (serve.app)
├── ChatError               a request in OpenAI's format cannot be answered (serve.openai.errors)
└── DeploymentError         the replicas of a deployment do not start (cli.deploy)

Of a body that is too large, and of a client that is gone, HTTP's own exceptions tell; export's branch is
drawn in secondlook.export.errors.
"""

from __future__ import annotations

from secondlook.edge.errors import SecondLookError

__all__ = [
    "AnsweredSessionError",
    "DeviceError",
    "EmptyQuestionError",
    "EncoderError",
    "EncoderMismatchError",
    "EngineFailedError",
    "ExpiredSessionError",
    "IncompleteModelError",
    "InvalidEncoderError",
    "InvalidModelError",
    "LostDetailError",
    "ModelError",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "NonFiniteError",
    "OutOfMemoryError",
    "PictureMismatchError",
    "PolicyFileError",
    "QuestionError",
    "QuestionTooLongError",
    "QueueFullError",
    "RateLimitError",
    "ReservedTextError",
    "RuntimeMissingError",
    "SessionError",
    "ShuttingDownError",
    "StreamError",
    "TooManyStreamsError",
    "UnauthorizedError",
    "UnknownFrameError",
    "UnknownSessionError",
    "UnknownStreamError",
    "UnsupportedModelError",
    "UpstreamAwayError",
    "UpstreamError",
    "UpstreamTimeoutError",
]


class ModelError(SecondLookError):
    """A model cannot be loaded or used."""


class ModelNotFoundError(ModelError):
    """There is no such folder, and no such model on the hub."""


class IncompleteModelError(ModelError):
    """The model lacks files or weights; the message names them."""


class UnsupportedModelError(ModelError):
    """The model is complete, but of a kind that the engine does not serve."""


class InvalidModelError(ModelError):
    """A file of the model cannot be read, or contradicts another."""


class DeviceError(ModelError):
    """The requested device does not exist on this machine."""


class NonFiniteError(ModelError):
    """The model computed NaN or infinity, usually from too narrow a dtype."""


class EncoderError(ModelError):
    """An exported vision encoder cannot be used."""


class InvalidEncoderError(EncoderError):
    """The folder of an exported encoder lacks files, or holds others than were exported."""


class EncoderMismatchError(EncoderError):
    """The encoder was made from another model, or built for another machine; the message names both sides."""


class RuntimeMissingError(EncoderError):
    """The runtime that an exported encoder needs is not installed, or lacks what it is asked for."""


class QuestionError(SecondLookError):
    """A question cannot be answered."""


class EmptyQuestionError(QuestionError):
    """The question is empty or only white space."""


class QuestionTooLongError(QuestionError):
    """The question exceeds the character limit or does not fit the model's context."""


class ReservedTextError(QuestionError):
    """The question contains text that the model's tokenizer reserves for itself."""


class SessionError(SecondLookError):
    """A pending second look cannot be continued."""


class UnknownSessionError(SessionError):
    """There is no such session."""


class ExpiredSessionError(SessionError):
    """The session's time ran out, or it was given up; its first answer stands."""


class AnsweredSessionError(SessionError):
    """The session already has its final answer."""


class StreamError(SecondLookError):
    """A stream cannot be gone on with."""


class UnknownStreamError(StreamError):
    """There is no such stream, or it has ended."""


class LostDetailError(StreamError):
    """The camera did not send a detail of a frame while that was of use."""


class UnknownFrameError(SecondLookError):
    """No such frame of a camera is held: it never was, or was given up."""


class PolicyFileError(SecondLookError):
    """A file of a calibrated policy cannot be read or written, or is for another model."""


class PictureMismatchError(SecondLookError):
    """A picture contradicts the size or region it was announced with."""


class QueueFullError(SecondLookError):
    """Too many questions are waiting.

    Attributes:
        retry_after: seconds after which trying again is sensible.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[QueueFullError], tuple[str, float]]:
        return type(self), (
            str(self),
            self.retry_after,
        )  # by default a copy would be made of the message alone


class TooManyStreamsError(QueueFullError):
    """Too many streams are open, or too many watch one."""


class RateLimitError(QueueFullError):
    """A key's questions in progress, looks or bytes are as many as it may have."""


class UnauthorizedError(SecondLookError):
    """The server wants a key, and the request has none, or one that the server does not know."""


class ModelNotReadyError(SecondLookError):
    """The server's model is still being loaded, could not be loaded, or what computes it has died."""


class OutOfMemoryError(SecondLookError):
    """The device has no memory for one question, even alone; a smaller cache leaves it more."""


class EngineFailedError(SecondLookError):
    """The engine raised something unforeseen on one question; the cause is chained and logged."""


class UpstreamError(SecondLookError):
    """The server that has the model refuses a request, breaks off, or does not speak as it should."""


class UpstreamAwayError(UpstreamError):
    """The server that has the model cannot be reached, or is too busy, also after some tries."""


class UpstreamTimeoutError(UpstreamError):
    """The server that has the model did not answer in time."""


class ShuttingDownError(SecondLookError):
    """The server is stopping and takes no more questions."""
