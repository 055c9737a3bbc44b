"""What most architectures share: a decoder of transformers', a chat template, a row a cell of a picture.

An architecture is a class that inherits from `Adapter` and says what is its own: its views, how it encodes
pictures, and where their rows stand.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from secondlook.edge.geometry import Size
from secondlook.edge.wire import View
from secondlook.engine.decode.cache import DecoderShape
from secondlook.engine.decode.plans import AttentionPlan, PrefillPlan, Rows
from secondlook.engine.devices import to_device
from secondlook.engine.models.base import Features, Prompt, VisionLanguageModel
from secondlook.engine.models.fused_layers import fused_layers
from secondlook.engine.models.pictures import Grid, Picture, fitted, largest_grid
from secondlook.engine.models.prompts import ChatPrompts, QuestionTokens
from secondlook.engine.models.settings import Localisation, LookSettings

__all__ = ["Adapter"]


class Adapter(VisionLanguageModel):
    """A `VisionLanguageModel` around a model of transformers', without `encode` and what it runs, and without
    what benchmarks ask: `with_module` and `pixel_inputs`.

    Attributes:
        prompts: from questions to tokens.
        cell: height and width in pixels of what is one cell of a picture's grid.
        vision_settings: what no weight of the `vision_graphs` tells of what they compute.
    """

    vision_settings = ""

    def __init__(
        self,
        name: str,
        module: Any,
        prompts: ChatPrompts,
        settings: LookSettings,
        localisation: Localisation,
        views: tuple[View, View],
        cell: tuple[int, int],
    ) -> None:
        """
        Args:
            module: its decoder attends by plans (`secondlook.engine.models.attention`).
            views: global and local.
        """
        text, eos = module.config.get_text_config(), module.generation_config.eos_token_id
        self.name = name
        self.module = module
        embeddings = module.get_input_embeddings().weight  # other parts may stay float32
        self.device, self.dtype = embeddings.device, embeddings.dtype
        self.decoder = DecoderShape.of(text)
        # No sequence is longer than a sliding window, so that the window hides nothing.
        window = getattr(text, "sliding_window", None)
        self.context: int = min(text.max_position_embeddings, window or text.max_position_embeddings)
        self.eos_ids: frozenset[int] = frozenset([eos] if isinstance(eos, int) else eos or ())
        self.prompts = prompts
        self.settings = settings
        self.localisation = localisation
        self.global_view, self.local_view = views
        self.cell = cell
        largest = [self.layout(largest_grid(view, cell)) for view in views]
        self.most_visual_tokens = (largest[0].shape[1], largest[1].shape[1])
        self._axes = len(largest[0])
        self._fused = fused_layers(module.get_decoder(), self.decoder, self._axes)

    def picture(self, image: Image.Image, view: View, original: Size) -> Picture:
        return fitted(image, view, original, self.cell)

    def layout(self, grid: Grid) -> Tensor:
        """Rotary positions [P, N] int64 of a picture's N rows, counted from that of its first.

        What follows goes on behind the largest.
        """
        return torch.arange(grid[0] * grid[1]).unsqueeze(0)

    def tokens(self, question: str) -> QuestionTokens:
        return self.prompts.tokens(question)

    def prompt(self, question: QuestionTokens, grids: Sequence[Grid]) -> Prompt:
        layouts = [self.layout(grid) for grid in grids]
        ids, spans = self.prompts.ids(question, [layout.shape[1] for layout in layouts])
        return Prompt.laid_out(ids, spans, grids, layouts)

    @torch.inference_mode()
    def rows(self, prompt: Prompt, start: int, features: Sequence[Features]) -> Rows:
        embeddings = self.embed(to_device(torch.tensor(prompt.ids[start:]), self.device))
        layers = max((len(one.deep) for one in features), default=0)
        deep = tuple(torch.zeros_like(embeddings) for _ in range(layers))
        spans = [span for span in prompt.spans if span[0] >= start]
        for (first, stop), one in zip(spans, features, strict=True):
            for whole, part in zip((embeddings, *deep), (one.tokens, *one.deep), strict=True):
                assert len(part) == stop - first, f"{len(part)} rows, where layout has {stop - first}"
                whole[first - start : stop - start] = part
        return Rows(embeddings, to_device(prompt.positions[:, start:], self.device), deep)

    @torch.inference_mode()
    def embed(self, tokens: Tensor) -> Tensor:
        embeddings: Tensor = self.module.get_input_embeddings()(tokens)
        return embeddings

    def step_positions(self, lengths: Tensor, deltas: Tensor) -> Tensor:
        return (lengths + deltas).expand(self._axes, -1)

    @torch.inference_mode()
    def hidden(self, rows: Rows, plan: AttentionPlan) -> Tensor:
        if self._fused is not None:
            return self._fused.hidden(rows, plan)
        # Of positions in one dimension transformers' decoders take [1, R], of three [3, 1, R].
        positions = rows.positions if len(rows.positions) == 1 else rows.positions.unsqueeze(1)
        deep = dict[str, Any]()
        if rows.deep:  # for all rows, so the mask is an index: of a mask the host waits to read the places
            whole = torch.zeros(1, dtype=torch.int64, device=self.device)
            deep = {"visual_pos_masks": whole, "deepstack_visual_embeds": rows.deep}
        output = self.module.get_decoder()(
            inputs_embeds=rows.embeddings.unsqueeze(0),
            position_ids=positions,
            use_cache=False,
            attention_plan=plan,
            **deep,
        )
        states: Tensor = output.last_hidden_state[0]
        wanted = plan.last if isinstance(plan, PrefillPlan) else None
        return states if wanted is None else states[wanted]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.module.get_output_embeddings()(hidden)
        return logits

    def shapes(self) -> VisionLanguageModel | None:
        with torch.device("meta"):
            module = type(self.module)(copy.deepcopy(self.module.config))
        return self.with_module(module.eval())

    def text_inputs(self, prompt: Prompt, question: QuestionTokens) -> dict[str, Tensor]:
        del question
        ids = to_device(torch.tensor([prompt.ids]), self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def text(self, token_ids: Sequence[int]) -> str:
        return self.prompts.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        return self.prompts.token_text(token_id)

    def digest(self) -> str:
        return _digest(_state(self.module))

    def encoder_digest(self, dtype: torch.dtype | None = None) -> str:
        modules = [graph.module for graph in self.vision_graphs().values()]
        tensors = chain.from_iterable(map(_state, modules))
        return _digest(((name, one.to(dtype or one.dtype)) for name, one in tensors), self.vision_settings)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `state_dict` holds, part after part: of packed weights it would hold copies, all at once."""
    for name, part in module.named_modules(remove_duplicate=False):
        own: dict[str, Tensor] = {}
        part._save_to_state_dict(own, f"{name}." if name else "", False)
        yield from own.items()


def _digest(tensors: Iterable[tuple[str, Tensor]], settings: str = "") -> str:
    """SHA-256 of tensors with their names and types, its first 16 hexadecimal digits."""
    total = hashlib.sha256(settings.encode())
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return total.hexdigest()[:16]
