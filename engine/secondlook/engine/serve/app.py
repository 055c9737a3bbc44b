"""The FastAPI application: routes, errors and the inference thread's life, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from secondlook.engine.serve.errors import add_error_handlers
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.routes import answers, watching
from secondlook.engine.serve.service import TwoLookService
from secondlook.engine.serve.settings import ServerSettings

__all__ = ["create_app", "create_loading_app"]

_API_VERSION = "1"

_DESCRIPTION = """\
Ask about a picture by sending little of it. The first look takes the whole picture at the model's own small
size. Where the model is unsure, the reply names the region of the original that it wants to see, and the
second look takes that. Every error has the same body, an `ErrorReply`.
"""


def create_app(engine: TwoLookEngine, settings: ServerSettings | None = None) -> FastAPI:
    """An application that serves `engine`, ready as soon as its lifespan has begun.

    The lifespan starts the inference thread, the only one that calls `engine`, and ends it after the
    questions it has. `app.state.service` is the TwoLookService behind it.
    """
    return _create(lambda: engine, settings, wait=True)


def create_loading_app(load: Callable[[], TwoLookEngine], settings: ServerSettings | None = None) -> FastAPI:
    """An application that answers probes at once and questions when `load`, called on the inference thread,
    is done.

    Until then `/readyz` and `/v1` answer 503. `app.state.service.loaded` is the future of the loading.
    """
    return _create(load, settings, wait=False)


def _create(load: Callable[[], TwoLookEngine], settings: ServerSettings | None, wait: bool) -> FastAPI:
    service = TwoLookService(load, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        if wait:
            await asyncio.wrap_future(service.loaded)
        purging = asyncio.create_task(service.purge_regularly())
        try:
            yield
        finally:
            purging.cancel()
            await service.stop()

    app = FastAPI(
        title="secondlook",
        summary="Two-look inference for vision-language models",
        description=_DESCRIPTION,
        version=_API_VERSION,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(answers)
    app.include_router(watching)
    add_error_handlers(app)
    return app
