"""The vision towers of Qwen2.5-VL and Qwen3-VL: pictures of any shape, their patches one after another.

The one forward of both, made of the model's own modules and tensors. What it looks at where follows from the
pictures' grids and is computed on the CPU beforehand (`Places`), so that nothing in it waits for the device:
attention within windows or pictures gathers them side by side, padded to the longest, instead of cutting the
rows at places read back from the device in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from secondlook.engine.devices import to_device
from secondlook.engine.models.attention import graph_attention
from secondlook.engine.models.pictures import Grid
from secondlook.engine.models.vision import Axis, Interface, TensorType

__all__ = ["Blocks", "Places", "QwenGraph", "QwenVision", "coordinates"]


class Blocks(NamedTuple):
    """Rows that see each other, as blocks of equal length.

    Attributes:
        rows: [n, L] int64, of each block; padding is any row.
        seen: [n, 1, 1, L], False at padding; None without any.
        back: [R] int64, where in the flattened blocks each row is.
    """

    rows: Tensor
    seen: Tensor | None
    back: Tensor

    @classmethod
    def of(cls, parts: Sequence[Tensor], device: torch.device) -> Blocks:
        """Of the rows of each block, on the CPU; together every row once."""
        rows = pad_sequence(list(parts), batch_first=True, padding_value=-1)
        valid = rows >= 0
        back = valid.flatten().nonzero()[:, 0][torch.cat(list(parts)).argsort()]
        seen = None if bool(valid.all()) else to_device(valid[:, None, None], device)
        return cls(to_device(rows.clamp(min=0), device), seen, to_device(back, device))


class Places(NamedTuple):
    """Where the R patches of a pass stand, on the device.

    Attributes:
        coordinates: [R, 2] int64, row and column of each in its picture.
        pictures, windows: what sees each other, in layers that see all and in the others.
        table: [R, 4] int64 and float32, which learned positions a patch has, and with which weights.
    """

    coordinates: Tensor
    pictures: Blocks
    windows: Blocks
    table: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, grids: Sequence[Grid], merge: int, window: int, side: int, device: torch.device) -> Places:
        """
        Args:
            grids: of the pictures, in cells of `merge` by `merge` patches.
            window: side of a window in cells; 0: there are none.
            side: of the square of learned positions; 0: there are none.
        """
        where = [coordinates(grid, merge) for grid in grids]
        pictures, windows, first = list[Tensor](), list[Tensor](), 0
        for rows, columns in grids:
            cells = torch.arange(rows * columns * merge**2).view(rows, columns, merge**2) + first
            first += cells.numel()
            pictures.append(cells.flatten())
            windows += _windows(cells, window) if window else []
        whole, table = Blocks.of(pictures, device), None
        if side:
            pairs = [_table(one, grid, merge, side) for one, grid in zip(where, grids, strict=True)]
            index, weights = (to_device(torch.cat(each), device) for each in zip(*pairs, strict=True))
            table = index, weights
        parted = Blocks.of(windows, device) if window else whole
        return cls(to_device(torch.cat(where), device), whole, parted, table)


def coordinates(grid: Grid, merge: int) -> Tensor:
    """Row and column [R, 2] int64 of a picture's patches, in their order: cell by cell, row-major in each."""
    cells, inside = (torch.cartesian_prod(*map(torch.arange, sides)) for sides in (grid, (merge, merge)))
    return (cells[:, None] * merge + inside).flatten(0, 1)


def _windows(cells: Tensor, side: int) -> list[Tensor]:
    """The rows of each window of cells [rows, columns, m]; the last ones may be smaller."""
    corners = [(y, x) for y in range(0, cells.shape[0], side) for x in range(0, cells.shape[1], side)]
    return [cells[y : y + side, x : x + side].flatten() for y, x in corners]


def _table(places: Tensor, grid: Grid, merge: int, side: int) -> tuple[Tensor, Tensor]:
    """Between which learned positions of a square patches lie, and how near: bilinear, corner on corner."""
    counts = torch.tensor(grid) * merge
    source = places.float() * (side - 1) / (counts - 1).clamp(min=1)
    low = source.floor()
    # [R, 2, 2]: of row and column the lower and the upper
    taps = torch.stack((low, low + 1), -1).long().clamp(max=side - 1)
    near = torch.stack((1 - (source - low), source - low), -1)
    index = taps[:, 0, :, None] * side + taps[:, 1, None]
    return index.flatten(1), (near[:, 0, :, None] * near[:, 1, None]).flatten(1)


class QwenVision(nn.Module):
    """Features of patches, and those of inner layers that the decoder's first layers take (DeepStack).

    Linear layers may be of a narrower dtype than rotations, which are float32 as in transformers.
    """

    def __init__(self, visual: Any) -> None:
        """
        Args:
            visual: transformers' tower; one with windows, learned positions or DeepStack has their settings.
        """
        super().__init__()
        config: Any = visual.config
        self.visual = visual
        self.merge: int = config.spatial_merge_size
        self.seeing_all = frozenset(getattr(config, "fullatt_block_indexes", range(config.depth)))
        self.window: int = getattr(config, "window_size", 0) // self.merge // config.patch_size
        self.side = int(getattr(config, "num_position_embeddings", 0) ** 0.5)
        self.deep: list[int] = list(getattr(config, "deepstack_visual_indexes", ()))
        told = [getattr(config, name, None) for name in ("hidden_act", "num_heads", "rope_parameters")]
        self.settings = f"{told} {self.window} {sorted(self.seeing_all)} {self.deep}"

    def places(self, grids: Sequence[Grid], device: torch.device) -> Places:
        """For `forward`, of pictures' grids in cells."""
        return Places.of(grids, self.merge, self.window, self.side, device)

    def forward(self, patches: Tensor, places: Places) -> tuple[Tensor, ...]:
        """Features [N, D] of all cells, and those of inner layers, from patches [R, C]."""
        visual = self.visual
        first = visual.patch_embed.proj  # a convolution over single patches
        hidden = functional.linear(patches.to(first.weight.dtype), first.weight.flatten(1), first.bias)
        if places.table is not None:
            index, weights = places.table
            learned = (visual.pos_embed(index) * weights[:, :, None]).sum(1)
            hidden = hidden + learned.to(hidden.dtype)
        angles = (places.coordinates[:, :, None] * visual.rotary_pos_emb.inv_freq.float()).flatten(1)
        rotation = torch.cat((angles, angles), 1)[:, None]
        rotary = rotation.cos(), rotation.sin()
        deep = list[Tensor]()
        for number, block in enumerate(visual.blocks):
            blocks = places.pictures if number in self.seeing_all else places.windows
            hidden = hidden + _attended(block.attn, block.norm1(hidden), rotary, blocks)
            hidden = hidden + block.mlp(block.norm2(hidden))
            if number in self.deep:
                deep.append(visual.deepstack_merger_list[self.deep.index(number)](hidden))
        return visual.merger(hidden), *deep


class QwenGraph(nn.Module):
    """A `QwenVision` as a function of tensors alone, in cells of m patches, for `VisionGraph`.

    Rows and what is seen are those of `Blocks`, padding or not; what sees each other in windows is taken only
    by towers that have them, and the table only by those with learned positions.
    """

    def __init__(self, vision: QwenVision, most: int, width: int) -> None:
        """
        Args:
            most: cells of one picture.
            width: of the decoder.
        """
        super().__init__()
        self.vision = vision
        cell, first = vision.merge**2, vision.visual.patch_embed.proj.weight
        self.patch = cell, first[0].numel()
        blocks = {"pictures": Axis(1, 1), "longest": Axis(cell, cell * most, adds_up=False)}
        inputs = [TensorType("patches", ("cells", *self.patch))]
        inputs += [
            TensorType("coordinates", ("cells", cell, 2), "int64"),
            *_block_types("picture", cell, *blocks),
        ]
        if vision.window:
            names = "windows", "window_longest"
            inputs += _block_types("window", cell, *names)
            longest = cell * min(vision.window**2, most)
            blocks |= zip(
                names, (Axis(1, -(-most // vision.window)), Axis(cell, longest, adds_up=False)), strict=True
            )
        if vision.side:
            inputs += [TensorType("table_index", ("cells", cell, 4), "int64")]
            inputs += [TensorType("table_weights", ("cells", cell, 4))]
        given = ["features", *(f"deep_{number}" for number in range(len(vision.deep)))]
        outputs = tuple(TensorType(name, ("cells", width)) for name in given)
        self.interface = Interface(tuple(inputs), outputs, {"cells": Axis(1, most), **blocks})

    def inputs(self, patches: Tensor, places: Places) -> tuple[Tensor, ...]:
        """What `forward` takes, from what `QwenVision` takes."""
        cell = self.vision.merge**2
        given = [patches.view(-1, *self.patch), places.coordinates.view(-1, cell, 2)]
        for blocks in (places.pictures, places.windows)[: 2 if self.vision.window else 1]:
            all_seen = torch.ones_like(blocks.rows, dtype=torch.bool)
            given += [
                blocks.rows,
                all_seen if blocks.seen is None else blocks.seen[:, 0, 0],
                blocks.back.view(-1, cell),
            ]
        return (*given, *(one.view(-1, cell, 4) for one in places.table or ()))

    def forward(self, patches: Tensor, coordinates: Tensor, *blocks: Tensor) -> tuple[Tensor, ...]:
        rest = list(blocks)
        parts = list[Blocks]()
        for _ in range(2 if self.vision.window else 1):
            rows, seen, back, *rest = rest
            parts.append(Blocks(rows, seen[:, None, None], back.flatten()))
        table = (rest[0].flatten(0, 1), rest[1].flatten(0, 1)) if rest else None
        places = Places(coordinates.flatten(0, 1), parts[0], parts[-1], table)
        made: tuple[Tensor, ...] = self.vision(patches.flatten(0, 1), places)
        return made

    def example(self) -> tuple[Tensor, ...]:
        """Inputs for two pictures of different sizes."""
        grids, cpu = [(2, 3), (self.vision.window + 1, 2)], torch.device("cpu")
        cells = sum(rows * columns for rows, columns in grids)
        return self.inputs(torch.zeros(cells * self.patch[0], self.patch[1]), self.vision.places(grids, cpu))


def _block_types(name: str, cell: int, blocks: str, longest: str) -> list[TensorType]:
    return [
        TensorType(f"{name}_rows", (blocks, longest), "int64"),
        TensorType(f"{name}_seen", (blocks, longest), "bool"),
        TensorType(f"{name}_back", ("cells", cell), "int64"),
    ]


def _attended(attention: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], blocks: Blocks) -> Tensor:
    mixed = attention.qkv(hidden)
    rows = mixed.view(mixed.shape[0], 3, attention.num_heads, -1)  # [R, 3, H, D]
    turned = (_turned(rows[:, which], *rotary) for which in (0, 1))
    query, key, value = (
        one.index_select(0, blocks.rows.flatten()).view(*blocks.rows.shape, *rows.shape[2:]).transpose(1, 2)
        for one in (*turned, rows[:, 2])
    )
    if torch.compiler.is_exporting():
        seen, _ = graph_attention(query, key, value, attention.scaling, blocks.seen)
    else:
        seen = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=blocks.seen, scale=attention.scaling
        )
    back = seen.transpose(1, 2).flatten(0, 1).index_select(0, blocks.back)
    found: Tensor = attention.proj(back.flatten(1))
    return found


def _turned(rows: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = rows.float().chunk(2, -1)
    turned = rows.float() * cosine + torch.cat((-second, first), -1) * sine
    return turned.to(rows.dtype)
