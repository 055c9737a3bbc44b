"""Work that never waits for a device, on a machine that may have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class NoWaiting(TorchDispatchMode):
    """Raises where the host would wait for a device: where a value is read, or decides a shape."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name = str(function)
        assert not any(part in name for part in ("_local_scalar_dense", "nonzero", "masked_select", "equal"))
        if name.startswith(("aten.index.", "aten.index_put")):  # by a mask: as many rows as it has places
            (picked,) = arguments[1:2]
            assert not any(isinstance(one, Tensor) and one.dtype == torch.bool for one in picked)
        return function(*arguments, **(options or {}))
