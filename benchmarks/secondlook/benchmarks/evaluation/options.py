"""Whom data sets' questions are asked, and how: dataclasses, whose fields are the commands' options."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from secondlook.edge.imaging import GLOBAL_JPEG, LOCAL_JPEG, JpegSettings
from secondlook.edge.validation import validated
from secondlook.engine.cli.options import (
    CacheOption,
    DeviceOption,
    DTypeOption,
    ModelOption,
    ProfileOption,
    QuantiseOption,
    RevisionOption,
)

QualityOption = Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of this look's image.")]


@validated(frozen=True)
class Served:
    """Which model is asked, as for `secondlook serve`, and what becomes of damaged pictures."""

    model: ModelOption = "demo"
    revision: RevisionOption = None
    profile: ProfileOption = None
    dtype: DTypeOption = "auto"
    device: DeviceOption = "auto"
    quantise: QuantiseOption = None
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave out pictures that cannot be read, and count them.")
    ] = False


@validated(frozen=True)
class Asking(Served):
    """How an evaluation asks it, and how its edge compresses."""

    kv_cache_gb: CacheOption = None
    global_quality: QualityOption = GLOBAL_JPEG.quality
    local_quality: QualityOption = LOCAL_JPEG.quality
    baseline: Annotated[
        Literal["high-resolution"] | None,
        typer.Option(help="Ask again with all tiles (LLaVA-NeXT); keys and values take twice the memory."),
    ] = None

    @property
    def global_jpeg(self) -> JpegSettings:
        return replace(GLOBAL_JPEG, quality=self.global_quality)

    @property
    def local_jpeg(self) -> JpegSettings:
        return replace(LOCAL_JPEG, quality=self.local_quality)
