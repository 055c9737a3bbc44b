"""What a model is to everything above it: pictures and questions in, rows of a decoder and maps out.

An architecture is one module of this package, with a class that is a `VisionLanguageModel`. All that
differs between architectures is behind that: how large pictures are, how many tokens they become, where these
stand in a prompt, their rotary positions, what of a prompt other questions share, and how an attention row
becomes a map. Nothing above knows a model's name, a square, or one grid for all pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from secondlook.edge.geometry import Size
from secondlook.edge.wire import View
from secondlook.engine.decode.decoder import DecoderModel
from secondlook.engine.decode.plans import Probe, Rows
from secondlook.engine.errors import EncoderError, UnsupportedModelError
from secondlook.engine.models.pictures import Grid, Normalisation, Picture
from secondlook.engine.models.prompts import QuestionTokens
from secondlook.engine.models.settings import Localisation, LookSettings
from secondlook.engine.models.vision import VisionEncoder, VisionGraph

__all__ = [
    "Features",
    "Grid",
    "Picture",
    "Prompt",
    "QuestionTokens",
    "VisionEncoder",
    "VisionLanguageModel",
    "own_encoder",
]


@dataclass(frozen=True, eq=False)
class Features:
    """What the vision encoder makes of one picture, whatever is asked about it.

    Attributes:
        tokens: [N, D]; D is the decoder's width, or that of what `condition` takes.
        deep: for each of the decoder's first layers, what is added there at the picture's rows, [N, D].
    """

    tokens: Tensor
    deep: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Prompt:
    """A whole prompt, each picture's place filled with as many rows as it has.

    Attributes:
        ids: the tokens; at a picture's rows, of the placeholder.
        spans: for each picture, [start, stop) of its rows; the global image's first.
        grids: for each picture.
        shared: so many rows from the start are the same in every prompt of the same prefix key.
        positions: [P, R] int64, on the CPU: rotary positions; P is 1, or 3 (time, row, column).
        next_position: of the first token of the answer.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    grids: tuple[Grid, ...]
    shared: int
    positions: Tensor
    next_position: int

    @classmethod
    def laid_out(
        cls,
        ids: Sequence[int],
        spans: Sequence[tuple[int, int]],
        grids: Sequence[Grid],
        layouts: Sequence[Tensor],
    ) -> Prompt:
        """With the positions of text, one behind the other, around those of pictures.

        Args:
            layouts: of each picture [P, N] int64, the positions of its rows, counted from that of its first;
                what follows goes on behind the largest.
        """
        positions = torch.empty(len(layouts[0]), len(ids), dtype=torch.int64)
        place, position = 0, 0
        for (start, stop), layout in zip(spans, layouts, strict=True):
            positions[:, place:start] = torch.arange(position, position + start - place)
            position += start - place
            positions[:, start:stop] = position + layout
            position += int(layout.max()) + 1
            place = stop
        last = position + len(ids) - place
        positions[:, place:] = torch.arange(position, last)
        return cls(tuple(ids), tuple(spans), tuple(grids), spans[0][1], positions, last)

    @property
    def delta(self) -> int:
        """What an answer's rotary positions are ahead of its places in the cache; mostly 0 or less."""
        return self.next_position - len(self.ids)

    @property
    def shared_position(self) -> int:
        """The rotary position of the first row behind the shared ones."""
        return int(self.positions[:, self.shared].max())

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return 8 * len(self.ids) + self.positions.nbytes

    @property
    def visual_tokens(self) -> int:
        """Rows of all pictures."""
        return sum(stop - start for start, stop in self.spans)


class VisionLanguageModel(DecoderModel, Protocol):
    """One loaded model. `picture`, `tokens` and `prompt` may be called on any thread, all others on one.

    What has a body here is what most architectures do.

    Attributes:
        name: what the model was asked for as.
        revision: commit of a hub model, as far as its folder tells.
        quantised: how the weights of its decoder's linear layers were rounded; None: they were not.
        module: of transformers, with its `config`; nobody but its owner changes it.
        context: the most rows of a sequence, generated ones included.
        most_visual_tokens: rows that a global image has at most, whatever its original, and a local one.
        global_view, local_view: what it sees of an original, and of a region.
        settings: threshold and length of answers.
        localisation: which attention is read, and how a region is found from it.
        brief: whether its prompts ask for a short answer themselves.
    """

    name: str
    revision: str | None = None
    quantised: str | None = None
    module: Any
    context: int
    most_visual_tokens: tuple[int, int]
    global_view: View
    local_view: View
    settings: LookSettings
    localisation: Localisation
    brief: bool = False

    @property
    def precision(self) -> str:
        """Of weights and activations, such as "bfloat16" or "float32 with int8 weights"."""
        dtype = str(self.dtype).removeprefix("torch.")
        return dtype if self.quantised is None else f"{dtype} with {self.quantised} weights"

    def picture(self, image: Image.Image, view: View, original: Size) -> Picture:
        """What the model takes of an image that shows an original (or a region) of that size.

        The grid follows from `original`, never from the image, which may be smaller than what it shows.

        Raises:
            GeometryError: see `secondlook.edge.geometry.target`.
        """
        ...

    def encode(self, pictures: Sequence[Picture]) -> list[Features]:
        """What the vision encoder makes of pictures, in one pass."""
        ...

    def condition(self, features: Features, question: QuestionTokens) -> tuple[Features, Tensor | None]:
        """A picture's rows for a question, and how its map follows from attention to them.

        Returns:
            features with as many rows as in the prompt, and [rows, cells]: what each row looked at, or None
            where rows are cells. The identity but where an encoder reads the question (Q-Former).
        """
        del question
        return features, None

    def tokens(self, question: str) -> QuestionTokens:
        """A question tokenised: all that depends on its text alone.

        Raises:
            ReservedTextError: the question has text that the tokenizer reads as one of its special tokens, by
                which it could pose as an image or end the prompt.
        """
        ...

    def prompt(self, question: QuestionTokens, grids: Sequence[Grid]) -> Prompt:
        """The prompt [global image][local image, if there are two][question]."""
        ...

    def prefix_key(self, picture: Picture, question: QuestionTokens) -> Hashable:
        """Equal for prompts whose shared rows are the same: here for every question about the picture."""
        del question
        return picture.digest

    def rows(self, prompt: Prompt, start: int, features: Sequence[Features]) -> Rows:
        """The prompt's rows from `start` on; `features`, conditioned, are of the pictures whose spans begin
        there or later."""
        ...

    def attention_map(self, row: Tensor, projection: Tensor | None, prompt: Prompt) -> Tensor:
        """[rows, columns] of the global image's grid, from an attention row [N] to its rows."""
        cells = row if projection is None else row @ projection
        return cells.reshape(prompt.grids[0])

    def probe(self) -> Probe:
        """The attention that `localisation` names, for a decoder; with a sink, that is the second map."""
        where, layers = self.localisation, dict[int, Tensor | None]()
        for layer, weights in self.probe_weights().items():
            mean = where.sink is None and where.layers[layer] is None
            layers[layer] = None if mean else weights.squeeze(0).to(self.device)
        return Probe(layers)

    def probe_weights(self) -> dict[int, Tensor]:
        """For each layer that is read, what its heads weigh: [1, H] float32, on the CPU; with a sink [2, H],
        of the map and of the sink's. What is read is the sum over heads and layers."""
        where, count = self.localisation, self.decoder.heads
        asked = [where.layers] if where.sink is None else [where.layers, where.sink.layers]
        found = dict[int, Tensor]()
        for layer in dict.fromkeys(itertools.chain(*asked)):
            weights = torch.zeros(len(asked), count)
            for number, each in enumerate(asked):
                heads = each.get(layer, {})
                if heads is None:
                    weights[number] = 1 / count
                elif heads:
                    weights[number, list(heads)] = torch.tensor(list(heads.values()))
            found[layer] = weights
        return found

    def text(self, token_ids: Sequence[int]) -> str:
        """An answer as text, without special tokens and surrounding white space."""
        ...

    def token_text(self, token_id: int) -> str:
        """One token as text, white space and all; of a special token its name. On any thread."""
        ...

    def vision_module(self) -> nn.Module:
        """What `encode` runs on the pictures' pixels, as a module: for measurements."""
        ...

    def vision_graphs(self) -> Mapping[str, VisionGraph]:
        """What `encode` runs, and `condition` where that encodes too, in this order: for export.

        Raises:
            EncoderError: such modules cannot be exported, and nothing can take their place.
        """
        raise own_encoder(self.name)

    @property
    def normalisation(self) -> Normalisation:
        """Of the pictures that the `vision_graphs` take.

        Raises:
            EncoderError: see there.
        """
        raise own_encoder(self.name)

    def with_module(self, module: Any) -> VisionLanguageModel | None:
        """The same model around another module of transformers', of the same configuration.

        None: nothing of this architecture is counted or measured.

        Args:
            module: each of its parts attends as that of `self.module`.
        """
        del module
        return None

    def shapes(self) -> VisionLanguageModel | None:
        """The same model on the meta device, without weights: what passes compute is counted there.

        None: see `with_module`.
        """
        return None

    def pixel_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """How transformers' own model is given pictures: keywords of its `forward`, one picture after the
        other along the first axis."""
        ...

    def text_inputs(self, prompt: Prompt, question: QuestionTokens) -> dict[str, Tensor]:
        """How transformers' own model is given all else of a prompt: keywords of its `forward`."""
        ...

    def projection(self, output: Any) -> Tensor | None:
        """What `condition` returns beside features, of the output of transformers' own encoder.

        Args:
            output: where `condition` is not the identity, of `get_image_features` for one picture, with
                attentions.
        """
        del output
        return None

    def with_encoder(self, *encoders: VisionEncoder) -> VisionLanguageModel:
        """The same model, on the same weights, with something else in place of its `vision_graphs`.

        Args:
            encoders: one for each of them, in their order.

        Raises:
            EncoderError: see there.
        """
        del encoders
        raise own_encoder(self.name)

    def high_resolution(self) -> VisionLanguageModel:
        """The same model, on the same weights, seeing pictures in tiles: what two looks are compared with.

        It is asked with one look alone, and has no rows for a local image.

        Raises:
            UnsupportedModelError: its architecture knows no tiles.
        """
        raise UnsupportedModelError(
            f"{self.name!r} sees no picture in tiles, so it has no high-resolution baseline; a LLaVA-NeXT has"
        )

    def digest(self) -> str:
        """SHA-256 of all weights with their names and types, its first 16 hexadecimal digits."""
        ...

    def encoder_digest(self, dtype: torch.dtype | None = None) -> str:
        """The same of the weights of `vision_graphs`, and of those settings of them that no weight tells.

        Args:
            dtype: as if the model had been loaded in it; None: as it is. Weights in float32 tell what they
                would be in all others, for loading rounds them the same way.
        """
        ...


def own_encoder(name: str) -> EncoderError:
    """The refusal of another encoder."""
    return EncoderError(
        f"{name!r} encodes pictures with its own modules alone: these are not exported, and nothing can take "
        "their place; leave --vision out"
    )
