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
        from secondlook.kernels.build import BACKENDS as KNOWN
        from secondlook.kernels.build import build_parameters, compile_library

        for backend in BACKENDS:
            if backend not in KNOWN:
                raise SystemExit(f"SECONDLOOK_BUILD_KERNELS: {backend!r} is none of {', '.join(KNOWN)}")
            parameters = build_parameters(backend)
            folder = Path(self.build_lib) / "secondlook" / "kernels" / "lib"
            compile_library(parameters, folder / parameters.library_name)


class PlatformDistribution(Distribution):
    """Names the platform in the wheel's name when it holds libraries."""

    def has_ext_modules(self) -> bool:
        return bool(BACKENDS)


setup(cmdclass={"build_py": BuildWithKernels}, distclass=PlatformDistribution)
