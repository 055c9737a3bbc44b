"""The next token and three measures of doubt about it, in one read of the logits.

The measures are those of Song & Kim, arXiv 2512.16349, in natural logarithms, turned so that all three grow
with doubt. The operator is `torch.ops.secondlook.token_statistics`; it is not differentiable.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from secondlook.kernels.operators import register

__all__ = ["NextToken", "token_statistics", "token_statistics_reference"]

LOGITS_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
"""What the operators read."""


class NextToken(NamedTuple):
    """For every row, the most likely token and the doubt about it."""

    token: Tensor  # [B] int64
    min_entropy: Tensor  # [B] float32: -ln p₁, in nats
    shannon_entropy: Tensor  # [B] float32: -Σ p ln p, in nats
    margin: Tensor  # [B] float32: 1 - (p₁ - p₂)


def token_statistics(
    logits: Tensor,  # [B, V] float32, float16 or bfloat16
) -> NextToken:
    """The most likely token of each row, and its min-entropy, Shannon entropy and margin.

    Args:
        logits: at least one token, contiguous in V; rows may be strided. -inf marks impossible tokens.

    Returns:
        tensors [B] on the same device. Of equal logits the lowest index wins. A row with NaN gives the index
        of its first NaN, one with +inf that of its first +inf, one of nothing but -inf gives 0 (as
        torch.argmax); the measures of all of these are NaN.

        The measures are within a relative 1e-5 of those of the logits as given, also where the doubt is as
        small as 1e-30. A row's result depends neither on the other rows, nor on where it lies in memory, nor
        on the number of threads.

    Raises:
        TypeError: logits of another dtype.
        ValueError: logits that are not [B, V], without a token, or not contiguous in V.
    """
    return NextToken(*_operator(logits.detach()))


def token_statistics_reference(
    logits: Tensor,  # [B, V], any floating dtype
) -> NextToken:
    """The specification of `token_statistics`, in float64.

    With d_v = max l - l_v and s = Σ exp(-d_v) over all tokens but the best, p₁ = 1 / (1 + s), so that

        min-entropy      = log1p(s)
        Shannon entropy  = log1p(s) + Σ exp(-d_v) d_v / (1 + s)
        margin           = (s + exp(-d_second)) / (1 + s)

    In this form nothing subtracts nearly equal numbers. The measures are float32, or float64 for float64
    logits.
    """
    wide = logits.double()
    token = wide.argmax(dim=1, keepdim=True)
    best = wide.gather(1, token)
    distance = best - wide
    weight = torch.exp(-distance).scatter(1, token, 0.0)
    # An impossible token has weight 0 and an infinite distance, and adds nothing.
    spread = torch.where(weight == 0, weight, weight * distance).sum(dim=1)
    # best - best is 0, or NaN where the best logit is not finite: that row has no distribution.
    others = weight.sum(dim=1) + (best - best).squeeze(1)
    total = 1 + others
    min_entropy = torch.log1p(others)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return NextToken(
        token=token.squeeze(1),
        min_entropy=min_entropy.to(dtype),
        shannon_entropy=(min_entropy + spread / total).to(dtype),
        margin=((others + weight.amax(dim=1)) / total).to(dtype),
    )


def check_logits(logits: Tensor) -> None:
    """Refuse what no operator of this family reads.

    Raises:
        TypeError, ValueError: naming what was wrong.
    """
    if logits.dtype not in LOGITS_DTYPES:
        raise TypeError(f"logits must be float32, float16 or bfloat16, not {logits.dtype}")
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ValueError(
            f"logits must be [B, V] with at least one token, but their shape is {[*logits.shape]}"
        )
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError(f"logits must be contiguous in V, but their strides are {[*logits.stride()]}")


def _fake(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    token = logits.new_empty(rows, dtype=torch.int64)
    first, second, third = (logits.new_empty(rows, dtype=dtype) for _ in range(3))
    return token, first, second, third


_operator: Final = register(
    "token_statistics(Tensor logits) -> "
    "(Tensor token, Tensor min_entropy, Tensor shannon_entropy, Tensor margin)",
    check=check_logits,
    reference=token_statistics_reference,
    fake=_fake,
)
