"""The operators as graphs of `torch.compile` reach them, before a library is loaded and after."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from secondlook.kernels.build import build_parameters
from secondlook.kernels.errors import CompilerMissingError

ARGUMENTS = {
    "token_statistics": "arguments = (torch.randn(2, 40),)",
    "record_tokens": (
        "slots = torch.arange(2)\n"
        "arguments = (torch.randn(2, 40), slots, slots, slots + 3, torch.zeros(2, 4).long(), "
        "torch.zeros(2, 4, 3), torch.zeros(2, 3), slots * 0, slots < 0, slots * 0, slots.int() * 0)"
    ),
    "attention_row": (
        "arguments = (torch.randn(1, 4, 8), torch.randn(1, 2, 9, 8), torch.tensor([9]), 0, 9, 1.0)"
    ),
    "find_region": (
        "arguments = (torch.rand(1, 6), torch.rand(1, 6), 2, 3, torch.tensor([[640, 480]]), 99, [1.0], 1)"
    ),
}
BEFORE = """
import inspect, torch
from secondlook import kernels
{arguments}
operator, reference = torch.ops.secondlook.{name}, kernels.{name}_reference
named = dict(zip(inspect.signature(reference).parameters, arguments))
def run(): return kernels.{name}(**named)
run = torch.compile(run, fullgraph=True, backend="aot_eager")
def refuse(*_, **__): raise AssertionError("the reference was run")
def loaded(): return sum("secondlook" in path for path in torch.ops.loaded_libraries)
"""


CHILDREN = """
import os
child = os.fork()
if child == 0:
    {lines}
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def in_a_new_process(code: str, mode: str = "auto") -> list[str]:
    """The lines that the code, run for each operator, prints in a process that has loaded nothing yet."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "SECONDLOOK_KERNELS": mode}
    # What compiles is imported once. Each operator has a child of its own: a library stays loaded.
    script = "import torch\ntorch.compile(torch.neg, backend='aot_eager')(torch.ones(1))\n"
    for name, arguments in ARGUMENTS.items():
        lines = BEFORE.format(name=name, arguments=arguments) + code
        script += CHILDREN.format(lines="\n    ".join(lines.splitlines()))
    done = subprocess.run(
        [sys.executable, "-u", "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_compiled_graph_loads_the_library_at_its_first_call() -> None:
    try:
        build_parameters("cpu")
    except CompilerMissingError as error:
        pytest.skip(str(error))
    code = "reference.__code__ = refuse.__code__\nbefore = loaded()\nrun()\nrun()\nprint(before, loaded())"
    assert in_a_new_process(code) == ["0 1"] * len(ARGUMENTS)


def test_in_mode_reference_arguments_are_checked_and_compiled_graphs_load_nothing() -> None:
    code = (
        "try: operator(arguments[0].int(), *arguments[1:])\n"
        "except TypeError as error: print('must be float32' in str(error))\n"
        "run()\n"
        "print(loaded())"
    )
    assert in_a_new_process(code, mode="reference") == ["True", "0"] * len(ARGUMENTS)


def test_a_layout_without_a_kernel_is_refused(device: torch.device) -> None:
    with pytest.raises(TypeError, match=r"token_statistics takes strided tensors, not torch\.sparse_coo"):
        torch.ops.secondlook.token_statistics(torch.ones(2, 1, device=device).to_sparse())
