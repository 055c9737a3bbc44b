"""The embedded model's architecture and tokenizer: a small LLaVA in the Hugging Face layout.

Every part is transformers' own: a CLIP vision tower on 168-pixel pictures (12 by 12 patches), LLaVA's
two-layer projector, a four-layer Llama. Only the sizes are ours. The tokenizer is a byte-level BPE learnt
from the questions, with every digit a token, so that any text can be asked and a number is read digit by
digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from secondlook.benchmarks.signs.questions import WORDINGS
from secondlook.benchmarks.signs.scene import COLOURS

__all__ = [
    "CHAT_TEMPLATE",
    "GRID",
    "IMAGE_SIZE",
    "PATCH",
    "PROBE_LAYER",
    "build_model",
    "build_tokenizer",
]

IMAGE_SIZE: Final = 168
PATCH: Final = 14
GRID: Final = IMAGE_SIZE // PATCH
PROBE_LAYER: Final = 2
"""0-based decoder layer whose attention is trained to find the asked sign; the region search reads it."""

_SPECIAL: Final = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
_VOCABULARY: Final = 384

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT:' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA-1.5's conversation, images first: `USER: <image>\\n{question} ASSISTANT:`."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the byte-level BPE from the wordings; `<s>` is put in front, as Llama's tokenizer does."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # untyped in transformers
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=1024,
        padding_side="left",
    )


def _corpus() -> Iterator[str]:
    for wordings in WORDINGS.values():
        for wording in wordings:
            for colour in COLOURS:
                yield f"USER: \n{wording.format(colour=colour)} ASSISTANT:"
    for colour in COLOURS:
        yield f"signs in {colour}, {colour} and {colour}"
    yield from ("yes", "no")


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    """The untrained model, float32, initialised from `seed`; Any: transformers' parts are hardly typed."""
    torch.manual_seed(seed)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image_token, int), "<image> is one token"
    config = AutoConfig.for_model(
        "llava",
        vision_config=AutoConfig.for_model(
            "clip_vision_model",
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=3,
            image_size=IMAGE_SIZE,
            patch_size=PATCH,
            hidden_act="gelu_pytorch_tanh",
            projection_dim=192,
        ).to_dict(),
        text_config=AutoConfig.for_model(
            "llama",
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
        image_token_index=image_token,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    return AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
