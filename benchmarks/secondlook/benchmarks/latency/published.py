"""The baselines: two looks with transformers' `generate` and forward passes, as one would write them, and
stronger ones with more of what transformers offers.

The published way (Zhang et al., arXiv 2502.17422, and its code; the decision to look twice: Song & Kim, arXiv
2512.16349): `generate`, two complete passes with `output_attentions=True`, `generate` on two images.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import chain
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, StaticCache
from transformers.generation.streamers import BaseStreamer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from secondlook.benchmarks.latency.flow import Metric, Outcome, Request, Stopwatch, sent_image
from secondlook.benchmarks.latency.subject import Subject, twin
from secondlook.edge.geometry import Region
from secondlook.engine.method.region import find_region, without_sinks
from secondlook.engine.models.base import Grid, Picture, Prompt
from secondlook.engine.models.prompts import GENERIC_QUESTION
from secondlook.engine.models.settings import Layers

_EAGER_LAYERS: Final = "secondlook_eager_layers"
"""Transformers' name for the attention function of this module; importing registers it."""


class ReferenceFlow:
    """The published way, with the defaults of Hugging Face: SDPA and a growing cache in `generate`, eager
    attention where the weights are wanted.

    Pictures are preprocessed once, and the region is found by our operator: less work than in the published
    code, not more. What differs between architectures is asked of the engine's own model: prompts, pictures,
    and how a row becomes a map.
    """

    name = "reference"

    def __init__(self, subject: Subject) -> None:
        self._served = subject.engine.model  # whose pictures and prompts are the reference's
        assert self._served.settings.fit == "squash", "the published search knows no padding"
        assert self._served.localisation.generated_rows == 0, "the published way reads the prompt's last row"
        self._model = subject.model
        self._probed = twin(subject.model, self._probed_attention())
        for part in self._probed.config.sub_configs.keys() - {"text_config", "vision_config"}:
            # What reads the question tells what it looked at. An argument would ask the tower, too, which
            # cannot tell with SDPA.
            getattr(self._probed.config, part).output_attentions = True
        self._device: torch.device = subject.model.device

    def _probed_attention(self) -> str | dict[str, str]:
        return "eager"

    @torch.inference_mode()
    def answer(self, request: Request) -> Outcome:
        """Answer a request; the threshold is 0 for one that is to be looked at twice, else infinite."""
        threshold = 0.0 if request.look_twice else float("inf")
        watch = Stopwatch(self._device)
        pictures, first = self._look(request, request.global_image)
        uncertainty, seconds = _uncertainty(first.logits), first.seconds(watch)
        if uncertainty < threshold:
            return Outcome(first.tokens, None, None, uncertainty, {**seconds, "final_answer": watch.read()})
        region = self._region(request, pictures)
        seconds["region"] = watch.pause()
        local_image = request.local_image(region)
        watch.go_on()
        local = self._served.picture(local_image, self._served.local_view, region.size)
        second = self._generate(request, [*pictures, self._picture(local)])
        _uncertainty(second.logits)  # what arbitration compares
        seconds["final_answer"] = watch.read()
        return Outcome(first.tokens, region, second.tokens, uncertainty, seconds)

    def _region(self, request: Request, pictures: Sequence[_Shown]) -> Region:
        """Where to look closer, as the model's `localisation` has it: a complete pass for each question."""
        where = self._served.localisation
        asked = [where.layers] if where.sink is None else [where.layers, where.sink.layers]
        by_question, *sinks = self._maps(request.question, pictures, asked)
        if where.sink is not None:
            by_question = without_sinks(by_question, sinks[0], where.sink.threshold)
        by_generic = torch.ones_like(by_question)
        if where.generic:
            (by_generic,) = self._maps(GENERIC_QUESTION, pictures, [where.layers])
        return find_region(by_question, by_generic, request.size, where.region)

    def _look(self, request: Request, image: Image.Image) -> tuple[list[_Shown], _Generated]:
        """The first answer, from what an edge sent of the original."""
        picture = self._served.picture(image, self._served.global_view, request.size)
        pictures = [self._picture(picture)]
        return pictures, self._generate(request, pictures)

    def _generate(self, request: Request, pictures: Sequence[_Shown]) -> _Generated:
        """Greedy tokens for a prompt with these pictures."""
        prompt, inputs = self._inputs(request.question, pictures)
        clock = _TokenClock()
        output = self._model.generate(
            **inputs,
            max_new_tokens=request.new_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            streamer=clock,
            **self._generate_options(len(prompt.ids) + request.new_tokens),
        )
        tokens = output.sequences[0, -len(output.logits) :].tolist()
        return _Generated(tuple(tokens), torch.cat(output.logits), clock.moments)

    def _generate_options(self, length: int) -> dict[str, Any]:
        """Keywords of `generate` beyond greedy decoding, for sequences of `length` tokens in the end."""
        return {}

    def _maps(self, question: str, pictures: Sequence[_Shown], asked: Sequence[Layers]) -> list[Tensor]:
        """For each of the heads asked for, [rows, columns] float32 of the global image's grid, from the last
        prompt token; all in one pass."""
        prompt, inputs = self._inputs(question, pictures)
        projection = None
        if self._served.tokens(question).instruction:
            # An encoder that reads it: a pass tells what it looked at only where it is handed that.
            encoder = self._probed.get_image_features
            own = {name: inputs[name] for name in signature(encoder).parameters if name in inputs}
            seen = encoder(**own, return_dict=True)
            projection = self._served.projection(seen)
            inputs |= {"pixel_values": None, "mm_encoder_outputs": {"image": seen}}
        weights = self._weights(inputs, chain.from_iterable(asked))
        start, stop = prompt.spans[0]
        read = {layer: each[0, :, -1, start:stop].float() for layer, each in weights.items()}
        return [self._served.attention_map(_summed(read, each), projection, prompt) for each in asked]

    def _weights(self, inputs: dict[str, Any], layers: Iterable[int]) -> dict[int, Tensor]:
        """Attention weights [1, H, n, n] of these layers."""
        output = self._probed(**inputs, output_attentions=True)
        # Of a decoder that is a whole model of its own, its output is within.
        attentions = getattr(output, "language_model_outputs", output).attentions
        return {layer: attentions[layer] for layer in layers}

    def _inputs(self, question: str, pictures: Sequence[_Shown]) -> tuple[Prompt, dict[str, Any]]:
        """A prompt, and how transformers is given it."""
        tokens = self._served.tokens(question)
        prompt = self._served.prompt(tokens, [picture.grid for picture in pictures])
        return prompt, {**self._served.text_inputs(prompt, tokens), **self._image_inputs(pictures)}

    def _image_inputs(self, pictures: Sequence[_Shown]) -> dict[str, Any]:
        """How the model is given pictures."""
        return {name: torch.cat([one.inputs[name] for one in pictures]) for name in pictures[0].inputs}

    def _picture(self, picture: Picture) -> _Shown:
        inputs = self._served.pixel_inputs([picture])
        return _Shown(picture.grid, inputs | {"pixel_values": inputs["pixel_values"].to(self._model.dtype)})


@dataclass(frozen=True)
class _Shown:
    """A picture as transformers is given it, and what its encoder made of it, where that is kept."""

    grid: Grid
    inputs: dict[str, Tensor]
    encoded: Any = None


@dataclass(frozen=True)
class _Generated:
    """An answer; `logits` [tokens, V], `moments` by time.perf_counter when each token was known."""

    tokens: tuple[int, ...]
    logits: Tensor
    moments: list[float]

    def seconds(self, watch: Stopwatch) -> dict[Metric, float]:
        """Of a first answer, read as soon as it is there."""
        seconds: dict[Metric, float] = {
            "first_answer": watch.read(),
            "first_token": watch.at(self.moments[0]),
        }
        if len(self.moments) > 1:
            seconds["per_token"] = (self.moments[-1] - self.moments[0]) / (len(self.moments) - 1)
        return seconds


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


def _summed(read: Mapping[int, Tensor], layers: Layers) -> Tensor:
    """Of attention [H, N] by layer the sum [N] over layers, of each the weighted heads or the mean of all;
    written apart from the engine's, which stands beside it."""
    row = torch.zeros(())
    for layer, heads in layers.items():
        each = read[layer]
        row = row + (
            each.mean(0) if heads is None else sum(weight * each[head] for head, weight in heads.items())
        )
    return row


def _uncertainty(logits: Tensor) -> float:
    """Mean min-entropy in nats of the answer's distributions [tokens, V]."""
    return float(-logits.float().log_softmax(-1).amax(-1).mean())


class StrongFlow(ReferenceFlow):
    """The published way with SDPA, a static cache of just the length needed, and attention weights at the
    layers that are read only, with logits of the last position only.

    Each of its four passes encodes its images anew, as `generate` does when given pixels: five for two
    pictures. Nothing is compiled: on a GPU `generate` would otherwise compile for each length of prompt.
    """

    name = "strong"

    def _probed_attention(self) -> dict[str, str]:
        # What reads the question must tell, too.
        parts = dict.fromkeys(self._model.config.sub_configs, "eager")
        return parts | {"text_config": _EAGER_LAYERS, "vision_config": "sdpa"}

    def _generate_options(self, length: int) -> dict[str, Any]:
        # The last token is never fed back. A cache of our own, for that of `generate` stays as long as its
        # longest prompt so far.
        cache = StaticCache(config=self._model.config.get_text_config(), max_cache_len=length - 1)
        return {"past_key_values": cache, "disable_compile": True}

    def _weights(self, inputs: dict[str, Any], layers: Iterable[int]) -> dict[int, Tensor]:
        wanted: dict[int, Tensor | None] = dict.fromkeys(layers)
        self._probed(**inputs, logits_to_keep=1, use_cache=False, eager_layers=wanted)
        found = {layer: weights for layer, weights in wanted.items() if weights is not None}
        assert found.keys() == wanted.keys(), "a layer that is read did not run"
        return found


class EncodingOnceFlow(StrongFlow):
    """The same, but each picture is encoded once, by transformers' own vision tower, and its features are
    handed to every pass (`mm_encoder_outputs`)."""

    name = "encoding_once"

    def _picture(self, picture: Picture) -> _Shown:
        shown = super()._picture(picture)
        encoded = self._model.get_image_features(**shown.inputs, return_dict=True)
        return replace(shown, encoded=encoded)

    def _image_inputs(self, pictures: Sequence[_Shown]) -> dict[str, Any]:
        encoded = [picture.encoded for picture in pictures]
        whole = copy.copy(encoded[0])
        whole.pooler_output = [one for each in encoded for one in each.pooler_output]
        if hasattr(whole, "deepstack_features"):  # a list of layers, of each the pictures'
            layers = zip(*(each.deepstack_features for each in encoded), strict=True)
            whole.deepstack_features = [sum(layer, ()) for layer in layers]
        inputs = super()._image_inputs(pictures)
        del inputs["pixel_values"]
        return {**inputs, "mm_encoder_outputs": {"image": whole}}


class HighResolutionFlow(ReferenceFlow):
    """One look with `generate` at a picture in tiles, whatever the doubt, as a LLaVA-NeXT's own processor
    shows it: what is served instead where nobody looks twice."""

    name = "high_resolution"

    def __init__(self, subject: Subject) -> None:
        self._served = subject.engine.model.high_resolution()
        self._model = subject.model
        self._device = subject.model.device

    @torch.inference_mode()
    def answer(self, request: Request) -> Outcome:
        image = sent_image(request.original, self._served.global_view)
        watch = Stopwatch(self._device)
        _, first = self._look(request, image)
        uncertainty, seconds = _uncertainty(first.logits), first.seconds(watch)
        return Outcome(first.tokens, None, None, uncertainty, {**seconds, "final_answer": watch.read()})


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    eager_layers: dict[int, Tensor | None],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """SDPA, but for the layers wanted; query [B, H, n, D], key and value [B, Hkv, n, D], causal.

    Args:
        eager_layers: the layers wanted, which their weights [B, H, n, n] are put in.
    """
    layer: Any = getattr(module, "layer_idx", None)
    if layer not in eager_layers:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    future = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).triu(1)
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(future, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    eager_layers[layer] = weights
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(_EAGER_LAYERS, _attend)
AttentionMaskInterface.register(_EAGER_LAYERS, sdpa_mask)
