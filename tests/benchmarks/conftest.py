"""What tests of measurements share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def as_transformers() -> Iterator[None]:
    """Models that are made in here compute as transformers' modules do, by PyTorch's own operations, which
    its counter knows: no packed layers, none of the operators that are for the CPU alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secondlook.benchmarks.latency.subject.pack_linear_layers", lambda _: None)
        patch.setattr("secondlook.engine.models.adapter.fused_layers", lambda *_: None)
        for user in ("decode.plans", "models.clip"):
            patch.setattr(f"secondlook.engine.{user}.has_kernels", lambda _: False)
        yield
