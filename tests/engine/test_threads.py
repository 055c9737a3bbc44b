"""How many threads compute, how long they spin, and what is kept: in time, and never against the user."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from secondlook.engine.threads import configure_threads, usable_cores

CORES = usable_cores(Path("/nowhere"))


@pytest.fixture(autouse=True)
def before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_spinning_is_bounded_and_threads_are_counted() -> None:
    environment: dict[str, str] = {}
    assert configure_threads(environment)
    assert environment == {
        "GOMP_SPINCOUNT": "2000",
        "KMP_BLOCKTIME": "1",
        "OMP_NUM_THREADS": str(usable_cores()),
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        "LRU_CACHE_CAPACITY": "128",
    }


@pytest.mark.parametrize(
    "chosen",
    [
        {"OMP_WAIT_POLICY": "active"},
        {"GOMP_SPINCOUNT": "7"},
        {"OMP_NUM_THREADS": "3"},
        {"LRU_CACHE_CAPACITY": "2"},
    ],
)
def test_what_the_user_chose_stays(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    configure_threads(environment)
    assert chosen.items() <= environment.items()
    assert ("GOMP_SPINCOUNT" in environment) != ("OMP_WAIT_POLICY" in environment)


def test_once_torch_is_loaded_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    environment: dict[str, str] = {}
    assert not configure_threads(environment)
    assert environment == {}


@pytest.mark.parametrize(
    ("group", "files", "cores"),
    [
        ("0::/", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/", {"cpu.max": f"{CORES * 250000} 100000\n"}, CORES),
        ("0::/", {"cpu.max": "max 100000\n"}, CORES),
        ("0::/", {"cpu.max": "nonsense"}, CORES),
        ("0::/a.slice/b.service", {"a.slice/b.service/cpu.max": "100000 100000\n"}, 1),
        ("0::/a.slice/b.service", {"a.slice/cpu.max": "100000 100000\n"}, 1),
        ("0::/a.slice", {"b.slice/cpu.max": "100000 100000\n"}, CORES),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("4:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ("", {}, CORES),
    ],
)
def test_control_groups_quotas_bound_the_cores(
    tmp_path: Path, group: str, files: dict[str, str], cores: int
) -> None:
    own = tmp_path / "own"
    own.write_text(group)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    assert usable_cores(tmp_path / "groups", own) == cores


def test_a_command_configures_threads_before_torch_is_loaded() -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
sys.argv = ["secondlook", "--version"]
from secondlook.engine.cli import main
try:
    main()
except SystemExit:
    import os
    print(os.environ["GOMP_SPINCOUNT"], "torch" in sys.modules)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "GOMP"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "2000 False", done.stderr


MEGABYTES = 100
ROWS = """
import sys
from secondlook.engine.threads import configure_threads
configure_threads()
import torch
from secondlook.engine.models.packed_linear import PackedLinear
from secondlook.engine.models.packing import _shape
layer = torch.nn.Linear(256, 256, bias=False)
if _shape(layer) is None:
    sys.exit("no oneDNN for this processor")
torch.set_num_threads(1)
layer, pages = PackedLinear(layer), []
with torch.inference_mode():
    for rows in range(1, 601):
        layer(torch.ones(rows, 256))
        pages.append(int(open("/proc/self/statm").read().split()[1]))
print(pages[199], pages[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_kernels_for_ever_new_numbers_of_rows_do_not_pile_up() -> None:
    environment = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    done = subprocess.run(
        [sys.executable, "-c", ROWS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "no oneDNN" in done.stderr:
        pytest.skip("no oneDNN for this processor")
    before, after = map(int, done.stdout.split())
    assert (after - before) * os.sysconf("SC_PAGESIZE") < MEGABYTES * 2**20


FAULTS = """
import resource, sys
from secondlook.engine.threads import configure_threads
configure_threads()
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.set_num_threads(1)
def faults_of(rounds):
    before = faults()
    for _ in range(rounds):
        [torch.ones(2**21) for _ in range(3)]
    return faults() - before
faults_of(10)  # the heap has grown to its size by then
print(min(faults_of(20) for _ in range(3)))  # other things that the process does may fault, too
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs GNU's malloc")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    """Three tensors of 8 MiB, made and freed: a page of 4 KiB that was given back is faulted in again."""
    found = {}
    for trimmed in ("", "65536"):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC")}
        if trimmed:
            environment["MALLOC_TRIM_THRESHOLD_"] = trimmed
        done = subprocess.run(
            [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
        )
        found[trimmed] = int(done.stdout)
    pages = 20 * 3 * 8 * 2**20 // os.sysconf("SC_PAGESIZE")
    assert found[""] < pages / 20
    assert found["65536"] > pages / 4
