"""The second embedded model, `demo-qwen`: a small Qwen2.5-VL, which sees pictures in their own shape.

A picture has up to 156 patches of 14 pixels, mostly 140 to 150, as the first model's square has 144. Each is
a row of the decoder (cells of one patch: with cells of two by two, a map would have 36). Patches have no
learnt positions, only rotary ones, in tower and decoder. All layers of the tower see the whole picture: at 12
patches across windows would spare nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from secondlook.edge.wire import Budget, View
from secondlook.engine.models.pictures import Grid
from secondlook.engine.models.qwen import layout, patch_rows
from secondlook.engine.models.qwen_vision import QwenVision
from training.model import DECODER, IMAGE_SIZE, PATCH, Architecture, pixels_to_float, token_id

__all__ = ["Qwen"]

_LAYERS: Final = 6
_FRAMES: Final = 2
_LEAST: Final = 56 * 56  # pixels
_MOST: Final = 156 * PATCH**2
"""Of which sides in whole patches leave 144 for a square, and no fewer than 140 for a usual shape."""

_SECTIONS: Final = [4, 4, 24]
"""How many of a head's 32 frequencies turn with time, row and column: so shared out, rows and columns of a
small grid both have some that tell places apart (rows: 0.32 to 0.13 rad a cell; columns: 0.1 and less)."""


class Qwen(Architecture):
    """An `Architecture`, see there. The tower is all of Qwen's `visual`, its merger included: features are
    the decoder's rows."""

    view = View(size=Budget(multiple=PATCH, least_pixels=_LEAST, most_pixels=_MOST))
    squashes = (1.0, 0.95, 1.05)  # sides are rounded to whole patches
    image = "<|image_pad|>"
    around = (("<|vision_start|>",), ("<|vision_end|>",))
    more_tokens = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    width = 256  # the decoder's
    tower_prefix = "model.visual."
    head_file = "patch_head_qwen.safetensors"

    def build(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
        torch.manual_seed(seed)
        start, end, video = (token_id(tokenizer, token) for token in self.more_tokens)
        config = AutoConfig.for_model(
            "qwen2_5_vl",
            vision_config={
                "depth": _LAYERS,
                "hidden_size": 192,
                "intermediate_size": 768,
                "num_heads": 3,
                "patch_size": PATCH,
                "spatial_merge_size": 1,
                "temporal_patch_size": _FRAMES,
                "fullatt_block_indexes": list(range(_LAYERS)),
                "window_size": IMAGE_SIZE,
                "out_hidden_size": self.width,
            },
            text_config={
                **DECODER,
                "vocab_size": len(tokenizer),
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": _SECTIONS,
                },
                "tie_word_embeddings": True,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            image_token_id=token_id(tokenizer, self.image),
            vision_start_token_id=start,
            vision_end_token_id=end,
            video_token_id=video,
            tie_word_embeddings=True,
        )
        return AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]

    def features(self, tower: Any, pixels: Sequence[Tensor], corner: Grid = (0, 0)) -> Tensor:
        vision = QwenVision(tower)
        grids = [(picture.shape[-2] // PATCH, picture.shape[-1] // PATCH) for picture in pixels]
        rows = torch.cat([patch_rows(pixels_to_float(picture), PATCH, 1, _FRAMES) for picture in pixels])
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU its gradient takes half as long as flash attention's
            features: Tensor = vision(rows, vision.places(grids, rows.device))[0]
        return features

    def start(self, model: Any, head: nn.Module, features: Tensor) -> None:
        """Nothing is between."""

    def layout(self, grid: Grid) -> Tensor:
        return layout(grid)

    def save_processor(self, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        # Qwen's own processor is not written: it needs one for videos, and that torchvision.
        Qwen2VLImageProcessorPil(
            size={"shortest_edge": _LEAST, "longest_edge": _MOST},
            patch_size=PATCH,
            merge_size=1,
            temporal_patch_size=_FRAMES,
            resample=1,  # Lanczos
        ).save_pretrained(folder)
