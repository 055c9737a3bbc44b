"""A real server on a loopback port, in this process: HTTP as deployed, one command to try it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from secondlook.benchmarks.commands import MeasurementError
from secondlook.engine.serve.app import Extension, address_url, create_app, listen
from secondlook.engine.serve.connections import ConnectionConfig
from secondlook.engine.serve.protocol import TwoLookEngine
from secondlook.engine.serve.settings import ServerSettings

_START_SECONDS = 30.0


@contextmanager
def loopback_server(
    engine: TwoLookEngine, settings: ServerSettings | None = None, extend: Extension | None = None
) -> Iterator[str]:
    """Serve `engine` on a free port of 127.0.0.1 while the block runs; yields the URL."""
    with listen("127.0.0.1", 0) as listener:
        settings = settings or ServerSettings()
        server = uvicorn.Server(ConnectionConfig(create_app(engine, settings, extend), settings.connections))
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="secondlook-loopback", daemon=True
        )
        thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise MeasurementError("the loopback server did not start; run with -v to see why")
            time.sleep(0.01)
        gc.collect()
        gc.freeze()  # as `secondlook serve` does
        try:
            yield address_url(listener)
        finally:
            server.should_exit = True
            thread.join()
            gc.unfreeze()
