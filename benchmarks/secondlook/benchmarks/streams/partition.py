"""The split of a large model that distributed systems use, run for real: the vision encoder in one process,
at the edge, the language model in another, in the cloud; features go up in place of pictures.

Both looks are split: the features of the whole picture go up, and where the answer is unsure those of the
region. Features travel in half precision over a loopback socket; JPEGs, for comparison, are decoded and
answered in one process. What is measured are the bytes, and how much longer or shorter the split takes.
"""

from __future__ import annotations

import copy
import multiprocessing
import secrets
import statistics
import time
from collections import deque
from collections.abc import Sequence
from itertools import count
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from secondlook.benchmarks.streams.scenes import SENSOR, DrawnFrame, DrawnStream
from secondlook.edge.geometry import Region, Size, sent_size
from secondlook.edge.imaging import decode_jpeg
from secondlook.engine.engine import Engine
from secondlook.engine.models.base import Features, VisionLanguageModel
from secondlook.engine.models.checkpoint import load_model

_WARMUPS: Final = 3


def measure_partition(model: str, stream: DrawnStream, frames: Sequence[int]) -> dict[str, Any]:
    """Bytes and seconds of answers about some of a stream's frames, split and whole, in turns.

    Args:
        model: as for `secondlook serve`.

    Returns: for JSON: bytes of the features of a whole picture and of a region; medians of seconds;
        `extra_seconds`, of the split over the whole; and the share of answers that are the same.
    """
    key = secrets.token_bytes(16)
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        spawned = multiprocessing.get_context("spawn")
        cloud = spawned.Process(target=_language, args=(listener.address, key, model), daemon=True)
        cloud.start()
        try:
            with listener.accept() as connection:
                edge = load_model(model)
                found = _compared(edge, connection, stream, frames)
                connection.send(None)
        finally:
            cloud.join(10)
            cloud.kill()
    return found


def _compared(
    model: VisionLanguageModel, connection: Connection, stream: DrawnStream, frames: Sequence[int]
) -> dict[str, Any]:
    engine = Engine(model)
    split, whole, same = list[float](), list[float](), list[bool]()
    sizes: tuple[list[int], list[int]] = [], []
    for place, number in enumerate([*frames[:_WARMUPS], *frames]):
        frame = stream.frame(number)
        images = frame.global_image(model.global_view)
        begun = time.perf_counter()
        text = _asked(model, connection, stream, number, decode_jpeg(images.jpeg), sizes)
        between = time.perf_counter()
        answer = _whole(engine, frame, images.jpeg, stream.question)
        ended = time.perf_counter()
        if place >= _WARMUPS:
            split.append(between - begun)
            whole.append(ended - between)
            same.append(text == answer)
    return {
        "bytes_whole": round(statistics.median(sizes[0])),
        "bytes_region": round(statistics.median(sizes[1])) if sizes[1] else 0,
        "seconds_split": statistics.median(split),
        "seconds_whole": statistics.median(whole),
        "extra_seconds": statistics.median(a - b for a, b in zip(split, whole, strict=True)),
        "same_answers": statistics.fmean(same),
        "frames": len(split),
    }


def _asked(
    model: VisionLanguageModel,
    connection: Connection,
    stream: DrawnStream,
    number: int,
    image: Image.Image,
    sizes: tuple[list[int], list[int]],
) -> str:
    """The edge's part of one question."""
    connection.send(stream.question)
    sizes[0].append(_send(model, connection, image, SENSOR, local=False))
    region, text = connection.recv()
    if region is not None:
        place = Region(*region)
        crop = stream.frame(number).local_image(place, model.local_view)
        sizes[1].append(_send(model, connection, decode_jpeg(crop.jpeg), place.size, local=True))
        _, text = connection.recv()
    return str(text)


def _whole(engine: Engine, frame: DrawnFrame, jpeg: bytes, question: str) -> str:
    """The same in one process, from JPEGs."""
    first = engine.first_look(decode_jpeg(jpeg), question, SENSOR)
    if first.pending is None:
        return first.text
    crop = frame.local_image(first.pending.region, engine.model.local_view)
    return engine.second_look(first.pending, decode_jpeg(crop.jpeg)).look.text


def _send(
    model: VisionLanguageModel, connection: Connection, image: Image.Image, shown: Size, *, local: bool
) -> int:
    """Encode a picture and send its features; their bytes."""
    view = model.local_view if local else model.global_view
    (features,) = model.encode([model.picture(image, view, shown)])
    parts = [np.asarray(part.half().cpu()) for part in (features.tokens, *features.deep)]
    connection.send([part.shape for part in parts])
    for part in parts:
        connection.send_bytes(part.tobytes())
    return sum(part.nbytes for part in parts)


def _language(address: tuple[str, int], key: bytes, name: str) -> None:
    """The cloud's process: answers from features."""
    torch.set_num_threads(1)
    model, given = load_model(name), deque[Features]()
    engine = Engine(_fed(model, given))
    with Client(address, authkey=key) as connection:
        for client in count():
            if (question := connection.recv()) is None:
                return
            given.append(_received(connection, model))
            blank = _blank(sent_size(model.global_view, SENSOR))
            # A client of its own: all blank pictures are alike, and keys and values must not be shared.
            request = engine.start_first_look(engine.prepare(blank, question, SENSOR, client=str(client)))
            while not request.future.done():
                engine.round()
            first = request.future.result()
            if first.pending is None:
                connection.send((None, first.text))
                continue
            connection.send((first.pending.region.as_tuple(), first.text))
            given.append(_received(connection, model))
            local = _blank(sent_size(model.local_view, first.pending.region.size))
            connection.send((None, engine.second_look(first.pending, local).look.text))


def _fed(model: VisionLanguageModel, given: deque[Features]) -> VisionLanguageModel:
    """The same model, which takes the next features that are given for whatever picture it is to encode."""
    other = copy.copy(model)
    other.encode = lambda pictures: [given.popleft() for _ in pictures]  # type: ignore[method-assign]
    return other


def _received(connection: Connection, model: VisionLanguageModel) -> Features:
    tokens, *deep = (
        torch.from_numpy(np.frombuffer(bytearray(connection.recv_bytes()), np.float16).reshape(shape)).to(
            model.device, model.dtype
        )
        for shape in connection.recv()
    )
    return Features(tokens, tuple(deep))


def _blank(size: Size) -> Image.Image:
    return Image.new("RGB", (size.width, size.height))
