"""The decode step's epilogue: next tokens with their doubt, appended to the slots' buffers on the device.

The operator is `torch.ops.secondlook.record_tokens`. Nothing in it waits for the device, so that on CUDA
it can be part of a captured graph.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from secondlook.kernels.operators import register
from secondlook.kernels.token_statistics import check_logits, token_statistics_reference

__all__ = ["record_tokens", "record_tokens_reference"]


def record_tokens(
    logits: Tensor,  # [B, V] float32, float16 or bfloat16
    *,
    slots: Tensor,  # [B] int64
    end_tokens: Tensor,  # [E] int64
    limits: Tensor,  # [S] int64
    tokens: Tensor,  # [S, T] int64
    measures: Tensor,  # [S, T, 3] float32
    means: Tensor,  # [S, 3] float32
    lengths: Tensor,  # [S] int64
    finished: Tensor,  # [S] bool
    next_tokens: Tensor,  # [B] int64
    arrivals: Tensor,  # [B] int32
) -> None:
    """Choose the next token of every row and append it, with its measures, to the row's slot.

    A row is skipped, and nothing of its slot or of its `next_tokens` changes, when its slot is outside [0, S)
    (padding: -1), has finished, or holds min(T, limit) tokens already. `logits`, `slots`, `end_tokens` and
    `limits` are only read. All on one device; all but `logits` contiguous. On CUDA it is one launch.

    Args:
        logits: as for `token_statistics`.
        slots: each row's slot. With the same slot twice it is undefined which row's token it gets.
        end_tokens: tokens that finish a slot; they are recorded too.
        limits: the most tokens of each slot; it finishes with that many, or with T.
        tokens: what each slot got so far, `lengths` of them; appended to.
        measures: min-entropy, Shannon entropy and margin of each; appended to.
        means: the measures' mean over each slot's tokens; updated.
        lengths: the number of each slot's tokens; updated.
        finished: set when a slot gets an end token or its last one.
        next_tokens: each row's token, for the next step.
        arrivals: scratch memory: zeros, made once by the caller, and zeros again after every call. On CUDA a
            row's blocks count in it who comes last; calls that may run at once need one each. Not used on
            other devices.

    Raises:
        TypeError: a dtype other than those above.
        ValueError: a shape, a stride or a device that does not fit.
    """
    _operator(
        *(logits.detach(), slots, end_tokens, limits, tokens, measures, means, lengths, finished),
        *(next_tokens, arrivals),
    )


def record_tokens_reference(
    logits: Tensor,
    slots: Tensor,
    end_tokens: Tensor,
    limits: Tensor,
    tokens: Tensor,
    measures: Tensor,
    means: Tensor,
    lengths: Tensor,
    finished: Tensor,
    next_tokens: Tensor,
    arrivals: Tensor,
) -> None:
    """The specification of `record_tokens`, in float64; it does not wait for the device either, and leaves
    `arrivals` alone.

    The mean of n + 1 values from that of n: m ← m + (x - m) / (n + 1).
    """
    rows, (count, capacity) = slots.shape[0], tokens.shape
    if rows == 0 or count == 0 or capacity == 0:
        return
    new = token_statistics_reference(logits.double())
    most = limits.clamp(max=capacity)  # [S]
    open_slots = ~finished & (lengths >= 0) & (lengths < most)  # [S]
    active = (slots >= 0) & (slots < count)  # [B]
    active &= open_slots[slots.clamp(0, count - 1)]

    # From each slot's side: the row that writes to it, or none. Inactive rows write to one slot more.
    none = rows
    row_of = torch.full((count + 1,), none, dtype=torch.int64, device=slots.device)
    row_of.scatter_(0, torch.where(active, slots, count), torch.arange(rows, device=slots.device))
    written = row_of[:count] != none  # [S]
    row = row_of[:count].clamp(max=rows - 1)
    token = new.token[row]  # [S]
    values = torch.stack(new[1:], dim=1)[row]  # [S, 3] float64

    index = torch.arange(count, device=slots.device)
    at = lengths.clamp(0, capacity - 1)
    tokens[index, at] = torch.where(written, token, tokens[index, at])
    column = written[:, None]
    measures[index, at] = torch.where(column, values.float(), measures[index, at])
    mean = means.double()
    mean = mean + (values - mean) / (lengths[:, None] + 1)
    means.copy_(torch.where(column, mean.float(), means))
    lengths += written
    ended = (token[:, None] == end_tokens).any(dim=1) | (lengths >= most)
    finished |= written & ended
    next_tokens.copy_(torch.where(active, new.token, next_tokens))


_INTEGERS: Final = torch.int64
# In the order of the operator's arguments, after the logits.
_DTYPES: Final = {
    "slots": _INTEGERS,
    "end_tokens": _INTEGERS,
    "limits": _INTEGERS,
    "tokens": _INTEGERS,
    "measures": torch.float32,
    "means": torch.float32,
    "lengths": _INTEGERS,
    "finished": torch.bool,
    "next_tokens": _INTEGERS,
    "arrivals": torch.int32,
}


def _check(logits: Tensor, *arguments: Tensor) -> None:
    check_logits(logits)
    others = dict(zip(_DTYPES, arguments, strict=True))
    rows, tokens = logits.shape[0], others["tokens"]
    if tokens.dim() != 2:
        raise ValueError(f"tokens must be [S, T], but its shape is {[*tokens.shape]}")
    count, capacity = tokens.shape
    if others["end_tokens"].dim() != 1:
        raise ValueError(f"end_tokens must be [E], but its shape is {[*others['end_tokens'].shape]}")
    shapes: dict[str, tuple[int, ...]] = {
        "slots": (rows,),
        "end_tokens": (others["end_tokens"].shape[0],),
        "limits": (count,),
        "tokens": (count, capacity),
        "measures": (count, capacity, 3),
        "means": (count, 3),
        "lengths": (count,),
        "finished": (count,),
        "next_tokens": (rows,),
        "arrivals": (rows,),
    }
    for name, tensor in others.items():
        if tensor.dtype != _DTYPES[name]:
            raise TypeError(f"{name} must be {_DTYPES[name]}, not {tensor.dtype}")
        if tensor.shape != shapes[name]:
            raise ValueError(
                f"{name} must have shape {[*shapes[name]]} for logits {[*logits.shape]} and tokens "
                f"{[*tokens.shape]}, but has {[*tensor.shape]}"
            )
        if tensor.device != logits.device:
            raise ValueError(f"{name} is on {tensor.device}, but logits are on {logits.device}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, but its strides are {[*tensor.stride()]}")


def _fake(logits: Tensor, *others: Tensor) -> None:
    return


_operator: Final = register(
    "record_tokens(Tensor logits, Tensor slots, Tensor end_tokens, Tensor limits, Tensor(a!) tokens, "
    "Tensor(b!) measures, Tensor(c!) means, Tensor(d!) lengths, Tensor(e!) finished, "
    "Tensor(f!) next_tokens, Tensor(g!) arrivals) -> ()",
    check=_check,
    reference=record_tokens_reference,
    fake=_fake,
)
