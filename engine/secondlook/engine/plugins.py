"""What other parts add to the engine, found by the entry points of installed distributions.

    secondlook.commands         register(app: typer.Typer): adds commands to `secondlook`
    secondlook.plan_builders    opens a TensorRT plan as `engine.encoders.tensorrt.open_plan` does, built anew
                                if need be; the first is taken
    secondlook.gate_pictures    pictures and questions without end, for the gate of `secondlook.export`;
                                the first is taken

So nothing here knows what is above it. A checkout that is not installed has none: `pip install -e .`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

__all__ = ["COMMANDS", "GATE_PICTURES", "PLAN_BUILDERS", "plugins"]

COMMANDS: Final = "secondlook.commands"
PLAN_BUILDERS: Final = "secondlook.plan_builders"
GATE_PICTURES: Final = "secondlook.gate_pictures"


def plugins(group: str) -> list[EntryPoint]:
    """The entry points of a group, by name; nothing is imported yet."""
    return sorted(entry_points(group=group), key=lambda one: one.name)
