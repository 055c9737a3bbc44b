"""The models that come with the package, for commands to know before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["DEMO", "EMBEDDED"]

DEMO: Final = "demo"
"""The name of the model that is asked unless another is named."""

EMBEDDED: Final = {
    DEMO: Path(__file__).with_name("checkpoint"),
    "demo-qwen": Path(__file__).with_name("checkpoint_qwen"),
}
"""Their names, and their folders."""
