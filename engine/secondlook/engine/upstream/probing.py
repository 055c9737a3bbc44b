"""An upstream asked once, so that what it lacks is told when a server starts, not to whoever asks first."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from math import isnan

from PIL import Image

from secondlook.edge.errors import SettingsError
from secondlook.edge.geometry import Size
from secondlook.edge.wire import AnswerOptions
from secondlook.engine.errors import UpstreamAwayError, UpstreamError, UpstreamTimeoutError
from secondlook.engine.method.policy import Policy
from secondlook.engine.upstream.answers import Vocabulary, Written
from secondlook.engine.upstream.asked import AskedQuestion, Bodies, data_url
from secondlook.engine.upstream.client import UpstreamClient
from secondlook.engine.upstream.settings import UpstreamSettings

__all__ = ["Found", "found_model"]

_SIDE = 224
_NEEDED = (
    "needed are a model that takes pictures, and logprobs in a stream (`logprobs: true, top_logprobs: 2`), "
    "which vLLM has unless --max-logprobs is below 2"
)


@dataclass(frozen=True)
class Found:
    """The model that is asked, and whether the runner-up of each token is told, which the margin needs."""

    model: str
    runner_up: bool


async def found_model(client: UpstreamClient, settings: UpstreamSettings) -> Found:
    """The model that is named, or the only one. It has answered a question by then.

    Raises:
        SettingsError: it is not there, or there are several and none is named.
        UpstreamError: it cannot be reached, takes no picture, or gives no logprobs.
    """
    models = await client.models()
    if settings.model is None and len(models) != 1:
        there = ", ".join(map(repr, models[:20])) or "none"
        raise SettingsError(f"the upstream {client.name} has {there}: say which model, by --upstream-model")
    model = models[0] if settings.model is None else settings.model
    if settings.model is not None and models and model not in models:
        there = ", ".join(map(repr, models[:20]))
        raise SettingsError(f"the upstream {client.name} has no model {model!r}, but {there}")
    try:
        runner_up = await _tells_runner_up(client, Bodies(settings, model))
    except (UpstreamAwayError, UpstreamTimeoutError):
        raise
    except UpstreamError as error:
        raise UpstreamError(f"{error}; {_NEEDED}") from error
    return Found(model, runner_up)


async def _tells_runner_up(client: UpstreamClient, bodies: Bodies) -> bool:
    grey, size = Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)), Size(_SIDE, _SIDE)
    policy, options = Policy(0.0), AnswerOptions()
    asked = AskedQuestion(
        "What is in the picture?", size, options, policy, 2, url=data_url(grey, None), sent=size
    )
    written = Written(Vocabulary(), 0, client.name)
    async with aclosing(client.completion(bodies.first(asked))) as chunks:
        async for chunk in chunks:
            written.add(chunk)
    return not any(isnan(token.margin) for token in written.look(policy).tokens)
