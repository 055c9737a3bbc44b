"""What a conversation came to, as OpenAI's completions and their chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from secondlook.engine.results import FinalAnswer
from secondlook.engine.serve.openai.messages import ZOOM_TOOL, ChatRequest
from secondlook.engine.serve.openai.reading import CALL_PREFIX, zoom_arguments

if TYPE_CHECKING:
    from secondlook.engine.results import Look
    from secondlook.engine.serve.openai.chat import Chatted

__all__ = ["DONE", "Completion", "event", "models_list", "shown_model"]

DONE: Final = "data: [DONE]\n\n"
"""The end of every stream."""

_IMPOSSIBLE: Final = -9999.0
"""OpenAI's logprob of what has no chance; JSON has no infinity."""

_BROKEN: Final = "�"
"""What stands for a part of a character."""


def event(value: dict[str, Any]) -> str:
    """A server-sent event."""
    # In ASCII, as some clients take U+2028 and the like for the ends of lines.
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def shown_model(name: str, created: int) -> dict[str, Any]:
    """A model, as `/v1/models` tells of it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "secondlook"}


def models_list(name: str, created: int) -> dict[str, Any]:
    """The only model."""
    return {"object": "list", "data": [shown_model(name, created)]}


@dataclass
class Completion:
    """One reply, whole or in chunks.

    Args:
        model: its name.
        request: what it answers.
        token_texts: tells tokens as texts.
    """

    model: str
    request: ChatRequest
    token_texts: Callable[[Sequence[int]], list[str]]
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _sent: str = ""
    _tokens_sent: int = 0

    def whole(self, chatted: Chatted) -> dict[str, Any]:
        """A `chat.completion`."""
        look, call = _standing(chatted), self._call(chatted)
        message: dict[str, Any] = {"role": "assistant", "content": look.text, "refusal": None}
        if call is not None:
            message["tool_calls"] = [call]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(look, 0),
            "finish_reason": self._reason(look, call),
        }
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model}
        return {
            **head,
            "choices": [choice],
            "usage": _usage(_looks(chatted)),
            "secondlook": _extension(chatted),
        }

    def first_chunk(self) -> str:
        """Who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def tokens_chunk(self, look: Look) -> str:
        """What an answer that stands has more than was sent; empty where that is no text yet."""
        text = look.text
        more = text[len(self._sent) :]
        # A part of a character may become one; bytes that are none of a text may change what was before them.
        if not more or text.endswith(_BROKEN) or not text.startswith(self._sent):
            return ""
        logprobs = self._logprobs(look, self._tokens_sent)
        self._sent, self._tokens_sent = text, len(look.token_ids)
        return self._chunk({"content": more}, logprobs=logprobs, looks=[look])

    def last_chunks(self, chatted: Chatted) -> str:
        """The rest of the answer, why it ends, and, if wanted, what it used."""
        look, call, looks = _standing(chatted), self._call(chatted), _looks(chatted)
        more, logprobs = self._rest(look), self._logprobs(look, self._tokens_sent)
        parts = []
        if more or (logprobs is not None and logprobs["content"]):
            parts.append(self._chunk({"content": more}, logprobs=logprobs, looks=looks))
        if call is not None:
            parts.append(self._chunk({"tool_calls": [{"index": 0, **call}]}, looks=looks))
        reason = self._reason(look, call)
        parts.append(self._chunk({}, reason=reason, looks=looks, secondlook=_extension(chatted)))
        if self._tells_usage:
            parts.append(event({**self._head(), "choices": [], "usage": _usage(looks)}))
        return "".join(parts) + DONE

    def _rest(self, look: Look) -> str:
        """What of an answer was not sent.

        Where it does not begin with what was, as a broken character has taken letters before it with it,
        nothing can be called back: it goes on with the tokens that come next, each for itself.
        """
        if look.text.startswith(self._sent):
            return look.text[len(self._sent) :]
        return "".join(self.token_texts(look.token_ids[self._tokens_sent : _length(look)]))

    @property
    def _tells_usage(self) -> bool:
        options = self.request.stream_options
        return options is not None and bool(options.include_usage)

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }

    def _chunk(
        self,
        delta: dict[str, Any],
        *,
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        looks: Sequence[Look] = (),
        **more: Any,
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        options = self.request.stream_options
        if options is not None and options.continuous_usage_stats and looks:
            more["usage"] = _usage(looks)
        elif self._tells_usage:
            more["usage"] = None  # as OpenAI's: the last chunk has it
        return event({**self._head(), "choices": [choice], **more})

    def _call(self, chatted: Chatted) -> dict[str, Any] | None:
        """The call of the zoom tool, where the client is to look closer."""
        session, original = chatted.served.session, chatted.original
        if session is None:
            return None
        region = chatted.served.found.region
        assert region is not None, "a session is opened for a region"
        assert original is not None, "its picture was opened"
        arguments = zoom_arguments(region, original, chatted.question)
        function = {"name": ZOOM_TOOL, "arguments": arguments}
        return {"id": f"{CALL_PREFIX}{session.id}", "type": "function", "function": function}

    @staticmethod
    def _reason(look: Look, call: dict[str, Any] | None) -> str:
        if call is not None:
            return "tool_calls"
        return "stop" if look.ended else "length"

    def _logprobs(self, look: Look, start: int) -> dict[str, Any] | None:
        """Of an answer's tokens from `start` on, the end token left out, where they are asked for."""
        if not self.request.logprobs:
            return None
        end = _length(look)
        places = range(start, end)
        texts = self.token_texts(look.token_ids[start:end])
        content = []
        for place, text in zip(places, texts, strict=True):
            likeliest = look.likeliest[place] if look.likeliest else ()
            others = self.token_texts([token for token, _ in likeliest])
            content.append(
                {
                    **_token(text, -look.tokens[place].min_entropy),
                    "top_logprobs": [
                        _token(other, logprob) for other, (_, logprob) in zip(others, likeliest, strict=True)
                    ],
                }
            )
        return {"content": content, "refusal": None}


def _length(look: Look) -> int:
    """Tokens of an answer, its end left out."""
    return len(look.tokens) - look.tokens[-1].is_eos


def _token(text: str, logprob: float) -> dict[str, Any]:
    # Of a part of a character the text does not tell the bytes.
    known = None if _BROKEN in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, _IMPOSSIBLE), "bytes": known}


def _looks(chatted: Chatted) -> list[Look]:
    found = chatted.served.found
    return [found.first, found.second] if isinstance(found, FinalAnswer) else [found.look]


def _standing(chatted: Chatted) -> Look:
    return chatted.served.found.look


def _usage(looks: Sequence[Look]) -> dict[str, Any]:
    """Tokens of all looks; those of pictures are among the prompts'."""
    prompt = sum(look.prompt_tokens for look in looks)
    images = sum(look.visual_tokens for look in looks)
    completion = sum(len(look.tokens) for look in looks)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {
            "cached_tokens": sum(look.cached_tokens for look in looks),
            "text_tokens": prompt - images,
            "image_tokens": images,
        },
    }


def _extension(chatted: Chatted) -> dict[str, Any]:
    """`secondlook` of a reply: what the edge would be told."""
    reply = chatted.served.reply.model_dump(mode="json")
    extension = {
        "decision": reply["decision"],
        "uncertainty": reply["answer"]["uncertainty"],
        "first": reply["first"],
        "second": reply["second"],
        "region": reply["region"],
        "region_source": reply["region_source"],
        "bytes": chatted.received_bytes,
        "image_id": chatted.image_id,
        "seconds": reply["seconds"],
    }
    if reply["session"] is not None:
        extension["session"] = reply["session"]
    if reply["relevance"] is not None:
        extension["relevance"] = reply["relevance"]
    if chatted.ignored:
        extension["ignored"] = list(chatted.ignored)
    return extension
