"""A real camera of the network, by RTSP: it is read, may go and come back, and takes little memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from contextlib import ExitStack

import pytest

from edge.rtsp import rtsp_camera
from secondlook.edge import Size, SourceError, open_source

pytestmark = [pytest.mark.slow, pytest.mark.needs_rtsp]

MOST_MEGABYTES = 150
# In a process of its own: what is read for as long as standard input says, a line a frame.
READING = """
import sys
from secondlook.edge import open_source

with open_source(sys.argv[1]) as source:
    for _ in sys.stdin:
        frame = source.newest()
        frame.picture.original().getbbox()
        with open("/proc/self/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM")).split()[1]
        print(frame.number, *frame.picture.original().size, peak, flush=True)
"""


def test_a_camera_comes_back_and_takes_little_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with ExitStack() as closing:
        with rtsp_camera(1920, 1080, 25) as port:
            reader = closing.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", READING, f"rtsp://127.0.0.1:{port}/camera"],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            found = read(reader, 100)
        with rtsp_camera(1920, 1080, 25, port=port):
            found += read(reader, 100)  # those that were there, then those of the new one
    numbers = [number for number, *_ in found]
    assert numbers == sorted(set(numbers))
    assert {(width, height) for _, width, height, _ in found} == {(1920, 1080)}
    assert max(peak for *_, peak in found) / 1000 < MOST_MEGABYTES


def read(reader: subprocess.Popen[str], count: int) -> list[list[int]]:
    """Number, width and height of the next frames, and the reader's most kilobytes so far."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    found = []
    for _ in range(count):
        reader.stdin.write("\n")
        reader.stdin.flush()
        found.append([int(word) for word in reader.stdout.readline().split()])
    return found


def test_a_camera_with_a_password() -> None:
    with rtsp_camera(320, 240, 25, "zoe7", "s3cret") as port:
        with open_source(f"rtsp://zoe7:s3cret@127.0.0.1:{port}/camera") as source:
            frame = source.newest()
            assert source.name == f"rtsp://127.0.0.1:{port}/camera"
        assert frame is not None
        assert frame.picture.size == Size(320, 240)
        wrong = "wr0ng"
        with pytest.raises(SourceError, match=r"cannot open .*: Server returned 401 Unauthorized") as caught:
            open_source(f"rtsp://zoe7:{wrong}@127.0.0.1:{port}/camera")
        assert wrong not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(SourceError, match=r"cannot open .*: Server returned 40"):
            open_source(f"rtsp://zoe7:s3cret@127.0.0.1:{port}/other")


def test_a_camera_that_never_answers_is_told() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(SourceError, match=r"cannot open .*: Connection refused"):
            open_source(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/camera")
        silent.listen()
        with pytest.raises(SourceError, match=r"cannot open .*: no answer within 10 s"):
            open_source(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/camera")
