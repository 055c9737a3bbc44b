"""What a conversation asks: one question about one picture, or a closer look at it.

* The question is the text of the user's last message. Earlier turns, and system messages, are for models that
  read conversations: they are passed over, and the reply says so.
* The picture is in that message, or the latest of the user's earlier ones.
* A *closer look* answers the call of the zoom tool in the assistant's last message: the picture that came
  since, in a tool's message or in the user's, is the region's. Such pictures are never the original.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from secondlook.edge.errors import GeometryError
from secondlook.edge.geometry import Region, Size
from secondlook.engine.serve.openai.errors import ChatError
from secondlook.engine.serve.openai.messages import ZOOM_TOOL, ChatMessage, Part, ToolCall

__all__ = ["CALL_PREFIX", "Closer", "Conversation", "read_conversation", "region_of", "zoom_arguments"]

CALL_PREFIX = "call_"
"""Before a session's id, in the id of a tool's call."""

_SCALE = 1000
"""Of the tool's boxes: fractions of the picture's width and height in thousandths, as Qwen's models count."""


@dataclass(frozen=True)
class Closer:
    """What came of the zoom tool.

    Attributes:
        call: the assistant's.
        picture: of the region; None: the tool had none.
        where: the message that has it, as OpenAI names fields.
    """

    call: ToolCall
    picture: Part | None
    where: str

    @property
    def session(self) -> str:
        """The id of the session that the call was made of."""
        return self.call.id.removeprefix(CALL_PREFIX)


@dataclass(frozen=True)
class Conversation:
    """What is asked.

    Attributes:
        question: its text.
        picture: the original, or the global image of one; None where there is none.
        where: the message that has it, or should.
        closer: what came of the zoom tool, if it was called just now.
        ignored: messages that were passed over, as OpenAI names fields.
    """

    question: str
    picture: Part | None
    where: str
    closer: Closer | None
    ignored: tuple[str, ...]


def read_conversation(messages: Sequence[ChatMessage]) -> Conversation:
    """
    Raises:
        ChatError: it has no question at its end, more than one picture where one is meant, or content that is
            neither text nor picture.
    """
    _check_parts(messages)
    closer, end = _closer(messages)
    asking = max((at for at in range(end) if messages[at].role == "user"), default=None)
    if asking is None or (closer is None and asking != len(messages) - 1):
        raise ChatError(
            "the last message must be the user's, with the question",
            code="question_required",
            param="messages",
        )
    texts = [part.text for part in messages[asking].parts if part.type == "text" and part.text]
    picture, holder = None, asking
    for at in reversed(range(asking + 1)):
        if messages[at].role == "user" and not _answers_call(messages, at):
            picture = _only(messages[at], at)
        if picture is not None:
            holder = at
            break
    used = {asking, holder, *range(end, len(messages))}
    ignored = tuple(f"messages.{at}" for at in range(len(messages)) if at not in used)
    return Conversation("\n".join(texts), picture, f"messages.{holder}", closer, ignored)


def zoom_arguments(region: Region, original: Size, question: str) -> str:
    """The arguments of the zoom tool's call, as JSON."""
    sides = (original.width, original.height) * 2
    box = [round(edge * _SCALE / side, 3) for edge, side in zip(region.as_tuple(), sides, strict=True)]
    return json.dumps({"bbox_2d": box, "label": question, "img_idx": 0}, ensure_ascii=False)


def region_of(call: ToolCall, original: Size) -> Region:
    """The region that a call named.

    Raises:
        ChatError: its arguments are not those of the tool.
    """
    try:
        box = json.loads(call.function.arguments)["bbox_2d"]
        sides = (original.width, original.height) * 2
        left, top, right, bottom = (
            min(max(round(float(edge) / _SCALE * side), 0), side)
            for edge, side in zip(box, sides, strict=True)
        )
        return Region(left, top, right, bottom)
    except (GeometryError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ChatError(
            f"the call of {ZOOM_TOOL} has no bbox_2d of four numbers, left, top, right and bottom from 0 to "
            f"{_SCALE}, in its arguments: {call.function.arguments[:200]!r}",
            code="invalid_field",
            param="messages",
        ) from error


def _closer(messages: Sequence[ChatMessage]) -> tuple[Closer | None, int]:
    """What came of the zoom tool, and the end of what was before its call, or of everything."""
    said = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=None)
    if said is None:
        return None, len(messages)
    call = _zoom_call(messages[said])
    after = [at for at in range(said + 1, len(messages)) if _answers(messages[at], at, messages[said], call)]
    pictures = [(at, part) for at in after for part in messages[at].parts if part.type == "image_url"]
    if call is None or not (pictures or any(messages[at].role in ("tool", "function") for at in after)):
        return None, len(messages)
    last = messages[-1]
    if not pictures and last.role == "user" and any(part.type == "text" for part in last.parts):
        return None, len(messages)  # the tool brought nothing, and another question is asked
    if len(pictures) > 1:
        raise ChatError(
            f"there are {len(pictures)} pictures since the call of {ZOOM_TOOL}; send the region's alone",
            code="too_many_images",
            param=f"messages.{pictures[-1][0]}",
        )
    where, picture = pictures[0] if pictures else (len(messages) - 1, None)
    return Closer(call, picture, f"messages.{where}"), said


def _zoom_call(message: ChatMessage) -> ToolCall | None:
    return next((call for call in message.tool_calls or () if call.function.name == ZOOM_TOOL), None)


def _answers(message: ChatMessage, at: int, said: ChatMessage, call: ToolCall | None) -> bool:
    """Whether a message may have what a call came to, as those may not that answer another call.

    Raises:
        ChatError: it answers a call that was not made.
    """
    identity = message.tool_call_id
    if message.role != "tool" or identity is None:
        return True
    calls = [one.id for one in said.tool_calls or ()]
    if identity not in calls:
        raise ChatError(
            f"tool_call_id is {identity[:100]!r}, but the calls of the assistant's last message are "
            f"{', '.join(map(repr, calls))[:200] or 'none'}",
            code="invalid_field",
            param=f"messages.{at}.tool_call_id",
        )
    return call is None or identity == call.id


def _answers_call(messages: Sequence[ChatMessage], at: int) -> bool:
    """Whether a user's message has what the zoom tool was called for: nothing but it came since the call."""
    before = at - 1
    while before >= 0 and messages[before].role in ("tool", "function"):
        before -= 1
    return before >= 0 and messages[before].role == "assistant" and _zoom_call(messages[before]) is not None


def _only(message: ChatMessage, at: int) -> Part | None:
    pictures = [part for part in message.parts if part.type == "image_url"]
    if len(pictures) > 1:
        raise ChatError(
            f"the message has {len(pictures)} pictures, and it is not clear which is meant: this model "
            "answers questions about one picture; send one",
            code="too_many_images",
            param=f"messages.{at}",
        )
    return pictures[0] if pictures else None


def _check_parts(messages: Sequence[ChatMessage]) -> None:
    for at, message in enumerate(messages):
        for number, part in enumerate(message.parts):
            if part.type not in ("text", "image_url", "refusal"):
                raise ChatError(
                    f"content of type {part.type[:100]!r} is not supported; send text and image_url",
                    code="unsupported_content",
                    param=f"messages.{at}.content.{number}",
                )
