"""A measurement that SIGTERM ends, and busy processes beside one that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TERMINATED = """
import os, signal, time
import typer
from secondlook.benchmarks import cli
from secondlook.engine.cli import run
app = typer.Typer()
cli.register(app)
(group,) = [one.typer_instance for one in app.registered_groups if one.name == "bench"]
@group.command()
def wait():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)
    finally:
        print("closed")
run(app, ["bench", "wait"])
"""

KILLED = """
import os
from pathlib import Path
from secondlook.benchmarks.peers.tasks import busy_processes
with busy_processes(2):
    print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
    os._exit(9)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_sigterm_is_as_ctrl_c() -> None:
    done = run(TERMINATED)
    assert (done.returncode, done.stdout) == (130, "closed\n"), done.stderr


def test_busy_processes_end_with_the_one_that_started_them() -> None:
    done = run(KILLED)
    left = [Path("/proc") / pid for pid in done.stdout.split()]
    assert (done.returncode, len(left)) == (9, 2), done.stderr
    while any(one.exists() for one in left):
        time.sleep(0.01)
