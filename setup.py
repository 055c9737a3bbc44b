"""Kernels ahead of time: `SECONDLOOK_BUILD_KERNELS=cpu pip wheel --no-build-isolation .`, or `cpu,cuda`.

Everything else about the package is in pyproject.toml. Without the variable the wheel holds sources only and
fits every platform; with it, the libraries too, compiled by the same function as at first use.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

BACKENDS = [
    name.strip() for name in os.environ.get("SECONDLOOK_BUILD_KERNELS", "").split(",") if name.strip()
]


class BuildWithKernels(build_py):
    """Copies the packages, then compiles the libraries that were asked for beside them."""

    def run(self) -> None:
        super().run()
        if not BACKENDS:
            return
        sys.path.insert(0, str(Path(__file__).parent / "kernels"))
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


setup(cmdclass={"build_py": BuildWithKernels}, distclass=PlatformDistribution)
