"""What an embedded model is to its training, and what all have in common: tokenizer, conversation, sizes.

The tokenizer is a byte-level BPE learnt from the questions, with every digit a token, so that any text can be
asked and a number is read digit by digit. The models differ in how they see pictures; each is an
`Architecture`, in a module of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from secondlook.benchmarks.signs.questions import WORDINGS
from secondlook.benchmarks.signs.scene import COLOURS
from secondlook.edge.geometry import Size, target
from secondlook.edge.wire import View
from secondlook.engine.models.pictures import Grid

__all__ = [
    "DECODER",
    "IMAGE_SIZE",
    "PATCH",
    "PROBE_LAYER",
    "Architecture",
    "build_tokenizer",
    "pixels_to_float",
    "token_id",
]

IMAGE_SIZE: Final = 168
"""Side of a square picture as every model sees it."""

PATCH: Final = 14
PROBE_LAYER: Final = 2
"""0-based decoder layer whose attention is trained to find the asked sign; the region search reads it."""

DECODER: Final = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
}
"""Sizes of every model's decoder."""

_SPECIAL: Final = ("<unk>", "<s>", "</s>", "<pad>")
_VOCABULARY: Final = 384
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's normalisation."""

_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT:' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


class Architecture(ABC):
    """One embedded model: its modules, how they see pictures, and what is written for serving it.

    Its *tower* is what the first stage trains and the second leaves alone; *features* are what the tower
    makes of each patch, and what the patch head reads.

    Attributes:
        view: what it sees of any picture, global or local.
        squashes: height over width that close-ups are stretched by.
        image: token that stands for a patch; before and behind all those of a picture stand `around`.
        more_tokens: special ones of its own.
        width: of a feature.
        tower_prefix: of the names of the tower's weights.
        head_file: of the patch head, beside the scripts.
    """

    view: ClassVar[View]
    squashes: ClassVar[tuple[float, ...]]
    image: ClassVar[str]
    around: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = ((), ())
    more_tokens: ClassVar[tuple[str, ...]] = ()
    width: ClassVar[int]
    tower_prefix: ClassVar[str]
    head_file: ClassVar[str]

    @abstractmethod
    def build(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
        """The untrained model, float32, initialised from `seed`; Any: transformers' parts are hardly typed.

        Every part is transformers' own; only the sizes are ours.
        """

    def tower(self, model: Any) -> nn.Module:
        """The part of a model that is its tower."""
        tower: nn.Module = model.get_submodule(self.tower_prefix.removesuffix("."))
        return tower

    @abstractmethod
    def features(self, tower: Any, pixels: Sequence[Tensor], corner: Grid = (0, 0)) -> Tensor:
        """Features [R, width] of the patches of pictures uint8 [3, H, W], one picture after another.

        Args:
            corner: row and column of the first patch, for close-ups, where positions are learnt.
        """

    def visual(self, model: Any, features: Tensor) -> Tensor:
        """Features [R, width] as the decoder's rows [R, D]."""
        return features

    @abstractmethod
    def start(self, model: Any, head: nn.Module, features: Tensor) -> None:
        """Initialise, at the start of the language stage, what is between tower and decoder."""

    @abstractmethod
    def layout(self, grid: Grid) -> Tensor:
        """Rotary positions [P, N] of a picture's rows, as the engine's `Adapter.layout`."""

    @abstractmethod
    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Write how pictures are prepared."""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See `build_tokenizer`."""
        return build_tokenizer(self.image, self.more_tokens)

    @property
    def chat_template(self) -> str:
        """LLaVA-1.5's conversation, images first: `USER: <image>\\n{question} ASSISTANT:`."""
        before, behind = map("".join, self.around)
        return _CHAT_TEMPLATE.replace("<image>", f"{before}{self.image}{behind}")

    def grid(self, shown: Size) -> Grid:
        """Rows and columns of patches of a picture, or a region of it, of this size."""
        seen = target(self.view, shown)
        return seen.height // PATCH, seen.width // PATCH


def pixels_to_float(pixels: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] → normalised float32."""
    mean, std = (torch.tensor(of, device=pixels.device).view(3, 1, 1) for of in (_MEAN, _STD))
    return (pixels.float() / 255 - mean) / std


def build_tokenizer(image: str, more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Learn the byte-level BPE from the wordings; `<s>` is put in front, as Llama's tokenizer does.

    Args:
        image: the special token that stands for a picture's patches.
        more: special tokens behind all others.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (*_SPECIAL, image)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in more])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": image},
        model_max_length=1024,
        padding_side="left",
    )


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Of a token that there is."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int), f"{token} is one token"
    return found


def _corpus() -> Iterator[str]:
    for wordings in WORDINGS.values():
        for wording in wordings:
            for colour in COLOURS:
                yield f"USER: \n{wording.format(colour=colour)} ASSISTANT:"
    for colour in COLOURS:
        yield f"signs in {colour}, {colour} and {colour}"
    yield from ("yes", "no")
