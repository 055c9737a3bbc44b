"""What pyproject.toml cannot say: where the edge is from, and kernels that are compiled ahead of time.

The edge is a distribution of its own, `secondlook-edge`. In a checkout it is the one beside this file, so
that `pip install '.[engine]'` needs no index that has it. A source distribution holds no edge, and requires
the one of the same version. So what is to be carried elsewhere is built by way of source distributions:
`python -m build . && python -m build edge`.

Kernels: `SECONDLOOK_BUILD_KERNELS=cpu python -m build --no-isolation .`, or `cpu,cuda`. Without the variable
the wheel holds sources only and fits every platform; with it, the libraries too, compiled by the same
function as at first use.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
BACKENDS = [
    name.strip() for name in os.environ.get("SECONDLOOK_BUILD_KERNELS", "").split(",") if name.strip()
]


def edge_requirement() -> str:
    """The edge of this checkout; in a source distribution, the edge of the same version."""
    edge = HERE / "edge"
    if (edge / "pyproject.toml").exists():
        return f"secondlook-edge @ {edge.as_uri()}"
    return f"secondlook-edge == {(edge / 'VERSION').read_text(encoding='utf-8').strip()}"


class BuildWithKernels(build_py):
    """Copies the packages, then compiles the libraries that were asked for beside them."""

    def run(self) -> None:
        # setuptools would ship what an earlier build left there, such as an edge or a module that has moved.
        shutil.rmtree(Path(self.build_lib) / "secondlook", ignore_errors=True)
        super().run()
        if not BACKENDS:
            return
        sys.path.insert(0, str(HERE / "kernels"))
        import torch

        from secondlook.kernels.build import ARCHITECTURES_SUFFIX, build_parameters, compile_library
        from secondlook.kernels.build import BACKENDS as KNOWN

        if "cuda" in BACKENDS and torch.version.cuda is None:
            raise SystemExit(
                f"SECONDLOOK_BUILD_KERNELS: 'cuda' needs a PyTorch for CUDA, but {torch.__version__} is "
                "installed, which could not load the library"
            )
        for backend in BACKENDS:
            if backend not in KNOWN:
                raise SystemExit(f"SECONDLOOK_BUILD_KERNELS: {backend!r} is none of {', '.join(KNOWN)}")
            parameters = build_parameters(backend)
            library = Path(self.build_lib) / "secondlook" / "kernels" / "lib" / parameters.library_name
            compile_library(parameters, library)
            if parameters.architectures:
                listed = "\n".join(parameters.architectures)
                library.with_suffix(ARCHITECTURES_SUFFIX).write_text(f"{listed}\n")


class PlatformDistribution(Distribution):
    """Names the platform in the wheel's name when it holds libraries."""

    def has_ext_modules(self) -> bool:
        return bool(BACKENDS)


setup(
    install_requires=[edge_requirement()],
    cmdclass={"build_py": BuildWithKernels},
    distclass=PlatformDistribution,
)
