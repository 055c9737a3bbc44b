"""An exported encoder's manifest for people."""

from __future__ import annotations

from collections.abc import Sequence

from secondlook.engine.encoders.manifest import EncoderManifest

__all__ = ["manifest_lines"]


def manifest_lines(manifest: EncoderManifest) -> list[str]:
    """What was exported, for people; a word for each line, ten characters wide, and what it is."""
    parity, picture = manifest.parity, manifest.preprocessing
    taken, given = (
        f"{tensor.name} [{', '.join(map(str, tensor.shape))}] {tensor.dtype}"
        for tensor in (manifest.input, manifest.output)
    )
    weights = ", ".join(f"{digest} in {dtype}" for dtype, digest in manifest.weights.items())
    pictures = (
        f"{manifest.side}x{manifest.side}, {picture.mode}, mean {_three(picture.mean)}, "
        f"std {_three(picture.std)}, scale {picture.scale:.6g}"
    )
    measured = (
        f"relative error {parity.relative_error:.2e} (at most {parity.tolerance:.0e}) "
        f"on {parity.pictures} pictures; {parity.same_answers} of {parity.answers} answers the same, "
        f"{parity.within_rounding} within rounding, uncertainty to {parity.entropy_difference:.1e} nats; "
        f"{parity.same_regions} of {parity.regions} regions the same"
    )
    return [
        f"model      {manifest.model}, feature layer {manifest.feature_layer}",
        f"weights    {weights}",
        f"graph      {manifest.dtype}, opset {manifest.opset}",
        f"input      {taken}",
        f"output     {given}",
        f"pictures   {pictures}",
        f"parity     {measured}",
        f"made by    {', '.join(f'{name} {version}' for name, version in manifest.tools.items())}",
        *(f"file       {name} SHA-256 {digest}" for name, digest in manifest.files.items()),
    ]


def _three(values: Sequence[float]) -> str:
    return "/".join(f"{value:.4g}" for value in values)
