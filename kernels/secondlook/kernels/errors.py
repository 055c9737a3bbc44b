"""What can go wrong with the kernels.

KernelError
├── CompilerMissingError    no compiler for a backend; the message says what to install
└── BuildError              the compiler failed; the message holds its output
"""

from __future__ import annotations

__all__ = ["BuildError", "CompilerMissingError", "KernelError"]


class KernelError(RuntimeError):
    """Root of this package's errors; the references serve in place of what could not be built."""


class CompilerMissingError(KernelError):
    """There is no compiler, or none that can be used, for a backend."""


class BuildError(KernelError):
    """The compiler did not accept the sources."""
