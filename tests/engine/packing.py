"""Where tests can pack linear layers: not everywhere that PyTorch runs."""

from __future__ import annotations

import platform
from typing import Any

import torch

__all__ = ["can_pack"]


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor and this build of PyTorch can, be it fast or slow."""
    mkldnn: Any = torch.backends.mkldnn  # untyped in torch
    if platform.machine() not in ("x86_64", "AMD64") or not mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
