"""The balancer's configuration of `deploy/`: a real nginx, and two real servers, one of which is killed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.crowd import ask_all, check_none_lost, free_ports, start_server, wait_until_ready
from repository import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.needs_nginx]

QUESTIONS, EDGES = 60, 8
SECONDS = 120
CONFIGURATION = ROOT / "deploy" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def configuration(folder: Path, listen: int, servers: list[int]) -> Path:
    """That of `deploy/`, with other ports, and with files of nginx's in a folder."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    for old, new in ((8000, listen), (8001, servers[0]), (8002, servers[1])):
        text, found = re.subn(rf"(listen |127\.0\.0\.1:){old}\b(?=[; ])", rf"\g<1>{new}", text)
        assert found == 1
    folders = "".join(f"{name}_temp_path {folder / name};\n" for name in TEMPORARY)
    user = "user root;\n" if os.geteuid() == 0 else ""
    text = f"daemon off;\n{user}pid {folder / 'pid'};\nerror_log stderr;\n{text}"
    text = text.replace("http {\n", f"http {{\naccess_log off;\n{folders}", 1)
    path = folder / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def servers() -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Two, by their ports."""
    started = {port: start_server(port, "--forwarded-allow-ips=127.0.0.1") for port in free_ports(2)}
    try:
        for port in started:
            wait_until_ready(f"http://127.0.0.1:{port}")
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@pytest.fixture
def balanced(tmp_path: Path, servers: dict[int, subprocess.Popen[bytes]]) -> Iterator[str]:
    (port,) = free_ports(1)
    path = configuration(tmp_path, port, list(servers))
    process = subprocess.Popen(["nginx", "-c", str(path)], stderr=subprocess.PIPE)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def test_a_server_that_is_killed_behind_nginx_costs_no_answer(
    balanced: str, servers: dict[int, subprocess.Popen[bytes]]
) -> None:
    first = next(iter(servers.values()))
    ended = ask_all(balanced, QUESTIONS, EDGES, first.kill)
    check_none_lost(ended, QUESTIONS)
    assert first.wait(SECONDS) != 0
    again = [one.answer.asked_again for one in ended]
    assert not any(again[: QUESTIONS // 2]), "both looks meet the same server while both are there"
    assert sum(again) <= EDGES
