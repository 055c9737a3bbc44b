"""How PyTorch knows the operators: by a schema, a reference and, once a library is loaded, a kernel.

A loaded library holds the kernels of all operators for its device, and the dispatcher prefers them to what is
registered here, which therefore runs only before (as in the first call of a compiled graph) and on other
devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from secondlook.kernels import library

__all__ = ["register"]

_LIBRARY: Final = torch.library.Library("secondlook", "FRAGMENT")  # type: ignore[no-untyped-call]


def register(
    schema: str,
    *,
    check: Callable[..., None],
    reference: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    """Define `torch.ops.secondlook.<name>`; returns it as the package's functions call it.

    All of them take the schema's arguments in its order, a tensor first.

    Args:
        schema: name, arguments and results.
        check: refuses arguments that do not fit.
        reference: computes the result where no compiled kernel serves.
        fake: gives the result's shape and dtype, for tracing.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    operator = getattr(torch.ops.secondlook, name)

    def choose(*arguments: Any) -> Any:
        check(*arguments)
        for argument in arguments:
            # Other layouts have no kernel, so that the dispatcher would come back here.
            for one in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(one, Tensor) and one.layout != torch.strided:
                    raise TypeError(f"{name} takes strided tensors, not {one.layout}")
        if library.uses_reference(arguments[0].device):
            return reference(*arguments)
        return operator(*arguments)  # by now there is a kernel for it

    def call(*arguments: Any) -> Any:
        check(*arguments)
        # In a graph that is compiled what to use is chosen when it runs. Where a kernel serves it is called
        # at once: to look at each of hundreds of tensors takes tens of microseconds, each step.
        if torch.compiler.is_compiling() or not library.uses_reference(arguments[0].device):
            return operator(*arguments)
        return choose(*arguments)

    _LIBRARY.impl(name, choose, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"secondlook::{name}", fake, lib=_LIBRARY)
    return call
