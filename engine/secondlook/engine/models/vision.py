"""What encodes pictures, as functions of named tensors: what is exported, and what other runtimes run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic import PositiveInt
from torch import Tensor, nn

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import validated
from secondlook.engine.errors import EncoderError

__all__ = ["Axis", "Interface", "TensorType", "VisionEncoder", "VisionGraph", "sized"]

VisionEncoder: TypeAlias = Callable[..., Any]
"""One of a model's `VisionGraph`s, whatever computes it: takes the tensors of its interface one by one, those
of floats in any dtype; returns one tensor, or a tuple of several, in the dtype of the first. One that takes
pictures of different sizes, and not any number of them at once, has `passes`: from a number of pictures to
how many each pass is to have."""


@validated(frozen=True)
class Axis:
    """How long a dynamic axis gets.

    Attributes:
        least, most: for one picture.
        adds_up: over the pictures of a pass; otherwise the longest of them tells.
    """

    least: PositiveInt
    most: PositiveInt
    adds_up: bool = True

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise SettingsError(f"an axis of at least {self.least} cannot be {self.most} at most")

    def bounds(self, fewest: int, most: int) -> tuple[int, int]:
        """The least and the most in passes of so many pictures."""
        return (self.least * fewest, self.most * most) if self.adds_up else (self.least, self.most)


@validated(frozen=True)
class TensorType:
    """A graph's input or output.

    Attributes:
        shape: a name stands for a dynamic axis.
        dtype: torch's name, such as "float32".
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.name} [{', '.join(map(str, self.shape))}]"


@validated(frozen=True)
class Interface:
    """What a graph takes and gives, in this order.

    Attributes:
        axes: every dynamic one, by its name.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    axes: dict[str, Axis]

    def __post_init__(self) -> None:
        taken, given = ({one for each in some for one in each.shape} for some in (self.inputs, self.outputs))
        names = {one for one in taken if isinstance(one, str)}
        if unknown := {one for one in given if isinstance(one, str)} - names:
            raise SettingsError(f"no input tells how long {', '.join(sorted(unknown))} is")
        if names != self.axes.keys():
            raise SettingsError(
                f"the inputs' axes are {sorted(names)}, and described are {sorted(self.axes)}"
            )

    def in_dtype(self, name: str) -> Interface:
        """The same with floats of another dtype."""
        inputs, outputs = (
            tuple(replace(one, dtype=name) if "float" in one.dtype else one for one in some)
            for some in (self.inputs, self.outputs)
        )
        return replace(self, inputs=inputs, outputs=outputs)

    def lengths(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        """Of the dynamic axes, from a pass's inputs.

        Raises:
            EncoderError: there are others than the graph takes.
        """
        found = dict[str, int]()
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(shapes) == len(self.inputs):
            for one, shape in zip(self.inputs, shapes, strict=True):
                found |= {
                    name: length
                    for name, length in zip(one.shape, shape, strict=False)
                    if isinstance(name, str)
                }
        if shapes != [sized(one.shape, found) for one in self.inputs]:
            told = ", ".join(str(list(shape)) for shape in shapes)
            raise EncoderError(f"the encoder takes {', '.join(map(str, self.inputs))}, not {told}")
        return found


def sized(shape: Sequence[int | str], lengths: dict[str, int]) -> tuple[int, ...]:
    """A shape with the lengths of its dynamic axes; 0 of one that has none."""
    return tuple(lengths.get(one, 0) if isinstance(one, str) else one for one in shape)


@dataclass(frozen=True, eq=False)
class VisionGraph:
    """A part of what encodes pictures: a function of tensors alone, so that it can be exported.

    Attributes:
        module: takes and returns tensors as the interface has them, in the model's own dtype.
        interface: with floats in float32.
        example: inputs on the CPU, with no dynamic axis of length 1.
    """

    module: nn.Module
    interface: Interface
    example: Callable[[], tuple[Tensor, ...]]
