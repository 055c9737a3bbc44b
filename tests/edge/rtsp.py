"""A real camera of the network: `rtsp_server.py`, run by a Python that has GStreamer's bindings."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 "
    "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
"""Debian's, and what `.ci/run` installs."""

PROGRAM = Path(__file__).with_name("rtsp_server.py")


@cache
def rtsp_python() -> str | None:
    """The Python that runs the server; None: there is none."""
    for python in filter(shutil.which, ("/usr/bin/python3", "python3")):
        if subprocess.run([python, PROGRAM, "check"], capture_output=True).returncode == 0:
            return python
    return None


@contextmanager
def rtsp_camera(width: int, height: int, fps: int, *user_and_password: str, port: int = 0) -> Iterator[int]:
    """A camera at rtsp://127.0.0.1:PORT/camera, until it is killed at the end of the block; its port."""
    python = rtsp_python()
    assert python is not None
    command = [python, str(PROGRAM), *map(str, (port, width, height, fps)), *user_and_password]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        told = server.stdout.readline()
        assert told, f"the RTSP server ended with status {server.wait()}"
        yield int(told)
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
