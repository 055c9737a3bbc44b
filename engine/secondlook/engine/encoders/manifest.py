"""What an exported vision encoder is: the file `manifest.json` in its folder.

    encoder.onnx         the graph, or the first of several, each of its own name
    encoder.onnx.data    its weights
    manifest.json        this; written only after the gate was passed

Knows files and models; neither ONNX nor any runtime.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic_core import to_jsonable_python

from secondlook.edge.errors import SettingsError
from secondlook.edge.validation import from_json, validated
from secondlook.edge.wire import View
from secondlook.engine.errors import EncoderMismatchError, InvalidEncoderError
from secondlook.engine.models.pictures import Normalisation
from secondlook.engine.models.vision import Interface

if TYPE_CHECKING:
    from secondlook.engine.models.base import VisionLanguageModel

__all__ = [
    "MANIFEST_FILE",
    "TOLERANCES",
    "EncoderManifest",
    "GraphDType",
    "Parity",
    "check_names",
    "file_digest",
    "graph_file",
    "read_json",
    "read_manifest",
    "weights_file",
    "write_json",
]

_Manifest = TypeVar("_Manifest")

MANIFEST_FILE: Final = "manifest.json"

GraphDType = Literal["float32", "float16", "bfloat16", "int8"]
"""The precision that graphs compute in; what an int8 graph takes and gives is float32."""

TOLERANCES: Final[dict[GraphDType, float]] = {
    "float32": 1e-5,
    "float16": 5e-3,
    "bfloat16": 2e-2,
    "int8": 1e-1,
}
"""The relative error that the gate allows. For int8, whose steps are coarser than any rounding, the answers
decide."""


@validated(frozen=True)
class Parity:
    """What the gate measured, against torch in float32 on the same weights.

    Attributes:
        relative_error: of what the encoder makes of a picture; the Frobenius norm of the difference over that
            of torch's, the largest of all pictures.
        tolerance: what `relative_error` had to stay within.
        pictures: of which the features were compared.
        questions: asked with both encoders, end to end.
        answers: of them that were compared, of first looks and of second looks at the same region.
        same_answers: of them, with the same tokens in the same order.
        within_rounding: of those that differ, where torch's two best tokens were within rounding at the
            first difference.
        entropy_difference: the largest difference of mean min-entropy in nats among the same answers.
        regions: found by both encoders.
        same_regions: of them, the same box.
    """

    relative_error: float
    tolerance: float
    pictures: int
    questions: int
    answers: int
    same_answers: int
    within_rounding: int
    entropy_difference: float
    regions: int
    same_regions: int


@validated(frozen=True)
class EncoderManifest:
    """What an exported encoder was made from, what it computes, and how well.

    Attributes:
        model: what the model was asked for as.
        revision: commit of a hub model.
        weights: digests of the encoder's weights, in the three dtypes that a model can be loaded in
            (`VisionLanguageModel.encoder_digest`).
        dtype: that the graphs compute in.
        opset: of the graphs' operators.
        graphs: what each takes and gives, by its name, in the order in which a picture passes them.
        normalisation: of the pictures.
        views: of the global and the local picture: which sizes the gate compared. The graphs take others too,
            as far as their axes say.
        tools: versions of what made the graph, by distribution.
        parity: what the gate measured.
        files: SHA-256 of every other file in the folder, in hexadecimal, by name.
        format: of the manifest itself.
    """

    model: str
    weights: dict[str, str]
    dtype: GraphDType
    opset: int
    graphs: dict[str, Interface]
    normalisation: Normalisation
    views: tuple[View, View]
    tools: dict[str, str]
    parity: Parity
    files: dict[str, str]
    revision: str | None = None
    format: Literal[2] = 2

    def __post_init__(self) -> None:
        check_names(self.files)
        if not self.graphs:
            raise SettingsError("the manifest names no graph")
        needed = {file(name) for name in self.graphs for file in (graph_file, weights_file)}
        if lacking := needed - self.files.keys():
            raise SettingsError(f"the manifest has no digest of {', '.join(sorted(lacking))}")

    def is_of(self, other: EncoderManifest) -> bool:
        """Whether it tells of the same graphs, with the same weights and axes."""
        return (self.files, self.graphs) == (other.files, other.graphs)

    def write(self, folder: Path) -> None:
        """Write the file and wait until it is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self, folder / MANIFEST_FILE)

    def check_files(self, folder: Path) -> None:
        """Compare every file with its digest.

        Raises:
            InvalidEncoderError: a file is missing, cannot be read or is another; the message names all.
        """
        wrong = []
        for name, expected in self.files.items():
            path = folder / name
            if path.exists() and not path.is_file():  # a device may be endless
                wrong.append(f"{name} is no regular file")
                continue
            try:
                found = file_digest(path)
            except OSError as error:
                wrong.append(f"{name} cannot be read ({error.strerror})")
                continue
            if found != expected:
                wrong.append(f"{name} has SHA-256 {found[:16]}..., the manifest says {expected[:16]}...")
        if wrong:
            raise InvalidEncoderError(
                f"{folder} is not as it was exported: {'; '.join(wrong)}; export the encoder again"
            )

    def check_fits(self, folder: Path, model: VisionLanguageModel) -> None:
        """Compare what the encoder was made from with a loaded model.

        Raises:
            EncoderMismatchError: it was made from another, or for other pictures; the message names both
                sides of every difference.
        """
        dtype = str(model.dtype).removeprefix("torch.")
        graphs = model.vision_graphs()
        pairs: dict[str, tuple[object, object]] = {
            f"weights in {dtype}": (self.weights.get(dtype), model.encoder_digest()),
            "graphs": (", ".join(self.graphs), ", ".join(graphs)),
            **{
                field.name: (
                    getattr(self.normalisation, field.name),
                    getattr(model.normalisation, field.name),
                )
                for field in fields(Normalisation)
            },
        }
        for name in self.graphs.keys() & graphs.keys():
            mine, theirs = self.graphs[name], graphs[name].interface
            for kind in ("inputs", "outputs"):
                both = (", ".join(map(str, getattr(one, kind))) for one in (mine, theirs))
                pairs[f"{kind} of {name}"] = next(both), next(both)
            for axis in mine.axes.keys() & theirs.axes.keys():
                there, wanted = mine.axes[axis], theirs.axes[axis]
                if there.least > wanted.least or there.most < wanted.most:
                    lengths = (f"{one.least} to {one.most}" for one in (there, wanted))
                    pairs[f"{axis} of {name}"] = next(lengths), next(lengths)
        different = [f"{name} {a}, not {b}" for name, (a, b) in pairs.items() if a != b]
        if different:
            raise EncoderMismatchError(
                f"the encoder in {folder} was exported from {self.model!r} and does not fit the model "
                f"{model.name!r}: it has {'; '.join(different)}; export {model.name!r}"
            )


def graph_file(name: str) -> str:
    """The file of a graph."""
    return f"{name}.onnx"


def weights_file(name: str) -> str:
    """The file of a graph's weights."""
    return f"{graph_file(name)}.data"


def check_names(files: Iterable[str]) -> None:
    """Refuse names of what is outside a manifest's folder.

    Raises:
        SettingsError: there is one.
    """
    for name in files:
        if name in ("", "..") or "\0" in name or Path(name).name != name:
            raise SettingsError(f"files should be plain names in the manifest's folder, not {name!r}")


def read_manifest(folder: Path) -> EncoderManifest:
    """The manifest of an exported encoder; its files are not compared yet.

    Raises:
        InvalidEncoderError: there is no such folder or manifest, or it is not one of this version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InvalidEncoderError(
            f"{folder} is no exported encoder: it has no {MANIFEST_FILE}; make one with secondlook export"
        )
    return read_json(EncoderManifest, path)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            total.update(chunk)
    return total.hexdigest()


def write_json(manifest: Any, path: Path) -> None:
    """Write a dataclass as JSON, and wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(to_jsonable_python(manifest), indent=4) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(kind: type[_Manifest], path: Path) -> _Manifest:
    """A manifest of a kind.

    Raises:
        InvalidEncoderError: it cannot be read, or is not one of this version.
    """
    try:
        text = path.read_bytes()
        made, readable = _format(text), vars(kind)["format"]
        if isinstance(made, int) and made != readable:
            raise InvalidEncoderError(
                f"{path} is of format {made}, and this version reads {readable}: make it again, with "
                "secondlook export or secondlook build"
            )
        return from_json(kind, text)
    except (OSError, SettingsError) as error:
        raise InvalidEncoderError(f"{path} is no manifest of this version: {error}") from error


def _format(text: bytes) -> object:
    """What a manifest says of its own layout, if it can be read at all."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found.get("format") if isinstance(found, dict) else None
