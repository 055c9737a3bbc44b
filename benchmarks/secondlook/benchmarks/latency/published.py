"""The baselines: two looks with transformers' `generate` and forward passes, as one would write them, and
stronger ones with more of what transformers offers.

The published way (Zhang et al., arXiv 2502.17422, and its code; the decision to look twice: Song & Kim, arXiv
2512.16349): `generate`, two complete passes with `output_attentions=True`, `generate` on two images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.generation.streamers import BaseStreamer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling

from secondlook.benchmarks.latency.flow import Metric, Outcome, Request, Stopwatch
from secondlook.benchmarks.latency.subject import Subject, twin
from secondlook.edge.geometry import Region, Size
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.kernels import find_region

_ONE_EAGER_LAYER: Final = "secondlook_one_eager_layer"
"""Transformers' name for the attention function of this module; importing registers it."""


class ReferenceFlow:
    """The published way, with the defaults of Hugging Face: SDPA and a growing cache in `generate`, eager
    attention where the weights are wanted.

    Pictures are preprocessed once, and the region is found by our operator: less work than in the published
    code, not more.
    """

    name = "reference"
    _probed_attention: ClassVar[str | dict[str, str]] = "eager"

    def __init__(self, subject: Subject) -> None:
        assert subject.preset.settings.fit == "squash", "the published search knows no padding"
        self._preset = subject.preset
        self._model = subject.model
        self._served = subject.engine.model  # whose pictures are preprocessed as the reference's
        self._probed = twin(subject.model, self._probed_attention)
        self._device: torch.device = subject.model.device
        self._normalise = self._served.normalisation.on(self._device)

    @torch.inference_mode()
    def answer(self, request: Request) -> Outcome:
        """Answer a request; the threshold is 0 for one that is to be looked at twice, else infinite."""
        threshold = 0.0 if request.look_twice else float("inf")
        watch = Stopwatch(self._device)
        pictures = self._pictures([request.global_image])
        first = self._generate(request, pictures)
        uncertainty = _uncertainty(first.logits)
        seconds: dict[Metric, float] = {
            "first_answer": watch.read(),
            "first_token": watch.at(first.moments[0]),
        }
        if len(first.moments) > 1:
            seconds["per_token"] = (first.moments[-1] - first.moments[0]) / (len(first.moments) - 1)
        if uncertainty < threshold:
            return Outcome(first.tokens, None, None, uncertainty, {**seconds, "final_answer": watch.read()})
        maps = [self._attention(question, pictures) for question in (request.question, GENERIC_QUESTION)]
        region = self._region(maps[0], maps[1], request)
        seconds["region"] = watch.pause()
        local_image = request.local_image(region)
        watch.go_on()
        both = torch.cat([pictures, self._pictures([local_image])])
        second = self._generate(request, both)
        _uncertainty(second.logits)  # what arbitration compares
        seconds["final_answer"] = watch.read()
        return Outcome(first.tokens, region, second.tokens, uncertainty, seconds)

    def _generate(self, request: Request, pictures: Tensor) -> _Generated:
        """Greedy tokens for a prompt with the n images of `pictures` [n, ...]."""
        inputs = self._inputs(request.question, pictures)
        clock = _TokenClock()
        output = self._model.generate(
            **inputs,
            max_new_tokens=request.new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            streamer=clock,
            **self._generate_options(inputs["input_ids"].shape[1] + request.new_tokens),
        )
        tokens = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return _Generated(tuple(tokens), torch.cat(output.logits), clock.moments)

    def _generate_options(self, length: int) -> dict[str, Any]:
        """Keywords of `generate` beyond greedy decoding, for sequences of `length` tokens in the end."""
        return {}

    def _attention(self, question: str, pictures: Tensor) -> Tensor:
        """[N] float32: from the last prompt token to the global image at the probe layer, mean over heads."""
        output = self._probed(**self._inputs(question, pictures), output_attentions=True)
        return self._image_row(output.attentions[self._preset.localisation.deepest])

    def _image_row(self, weights: Tensor) -> Tensor:
        """The wanted row of one layer's attention weights [1, H, n, n]."""
        start, stop = self._preset.prompt(GENERIC_QUESTION, 1)[1][0]
        return weights[0, :, -1, start:stop].float().mean(0)

    def _inputs(self, question: str, pictures: Tensor) -> dict[str, Any]:
        tokens, _ = self._preset.prompt(question, len(pictures))
        ids = torch.tensor([tokens], device=self._device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **self._image_inputs(pictures)}

    def _image_inputs(self, pictures: Tensor) -> dict[str, Any]:
        """How the model is given what `_pictures` made."""
        return {"pixel_values": pictures}

    def _pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """What the passes are given of images: pixel values [n, 3, S, S]."""
        model = self._served
        pictures = [model.picture(image, model.global_view, Size(*image.size)) for image in images]
        return self._normalise(pictures).to(self._model.dtype)

    def _region(self, question: Tensor, generic: Tensor, request: Request) -> Region:
        side = round(question.numel() ** 0.5)
        settings = self._preset.localisation
        sizes = torch.tensor([[request.size.width, request.size.height]], device=self._device)
        boxes = find_region(
            question[None], generic[None], side, side, sizes, settings.crop_size, min_cells=settings.min_cells
        )
        return Region(*boxes[0].tolist())


@dataclass(frozen=True)
class _Generated:
    """An answer; `logits` [tokens, V], `moments` by time.perf_counter when each token was known."""

    tokens: tuple[int, ...]
    logits: Tensor
    moments: list[float]


class _TokenClock(BaseStreamer):
    """Notes when `generate` hands out each token; the first thing it hands out is the prompt."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self._prompt_seen:
            self.moments.append(time.perf_counter())
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing is left to do."""


def _uncertainty(logits: Tensor) -> float:
    """Mean min-entropy in nats of the answer's distributions [tokens, V]."""
    return float(-logits.float().log_softmax(-1).amax(-1).mean())


class StrongFlow(ReferenceFlow):
    """The published way with SDPA, a static cache of just the length needed, and attention weights at the
    probe layer only, with logits of the last position only.

    Each of its four passes encodes its images anew, as `generate` does when given pixels: five for two
    pictures. Nothing is compiled: on a GPU `generate` would otherwise compile for each length of prompt.
    """

    name = "strong"
    _probed_attention: ClassVar[str | dict[str, str]] = {
        "text_config": _ONE_EAGER_LAYER,
        "vision_config": "sdpa",
    }

    def _generate_options(self, length: int) -> dict[str, Any]:
        # The last token is never fed back. A cache of our own, for that of `generate` stays as long as its
        # longest prompt so far.
        cache = StaticCache(config=self._model.config.get_text_config(), max_cache_len=length - 1)
        return {"past_key_values": cache, "disable_compile": True}

    def _attention(self, question: str, pictures: Tensor) -> Tensor:
        wanted = _EagerLayer(self._preset.localisation.deepest)
        inputs = self._inputs(question, pictures)
        self._probed(**inputs, logits_to_keep=1, use_cache=False, eager_layer=wanted)
        assert wanted.weights is not None, "the probe layer did not run"
        return self._image_row(wanted.weights)


class EncodingOnceFlow(StrongFlow):
    """The same, but each picture is encoded once, by transformers' own vision tower, and its features are
    handed to every pass (`mm_encoder_outputs`)."""

    name = "encoding_once"

    def _pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Features [n, N, D]."""
        output = self._model.get_image_features(pixel_values=super()._pictures(images), return_dict=True)
        return torch.stack(output.pooler_output)

    def _image_inputs(self, pictures: Tensor) -> dict[str, Any]:
        output = BaseModelOutputWithPooling(pooler_output=list(pictures))  # type: ignore[arg-type]
        return {"mm_encoder_outputs": {"image": output}}


@dataclass
class _EagerLayer:
    """A request for the attention weights [B, H, n, n] of one layer, and, after the pass, the weights."""

    layer: int
    weights: Tensor | None = field(default=None, init=False)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    eager_layer: _EagerLayer,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA, but for the layer wanted; query [B, H, n, D], key and value [B, Hkv, n, D], causal."""
    if getattr(module, "layer_idx", None) != eager_layer.layer:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    future = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(future, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    eager_layer.weights = weights
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_ONE_EAGER_LAYER, _attend)
AttentionMaskInterface.register(_ONE_EAGER_LAYER, sdpa_mask)
