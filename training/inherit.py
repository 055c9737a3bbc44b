"""How the second embedded model begins: with what the first one has learnt.

    python -m training.inherit --out OUT

writes `OUT/tower.pt` and `OUT/language.pt`, from which every stage can go on. The decoder is the first one's
to the last weight: Qwen2's is a Llama with biases, which begin at 0. The towers differ: Qwen2.5-VL's has
RMSNorm for LayerNorm, a gated MLP, and rotary positions for a learnt table and a class token.

* LayerNorm is RMSNorm of what has mean 0: the mean over the channels is taken out of all that is written
  into the residual stream, and the norms' biases go into the layers behind them.
* gelu(x) is nearly x · sigmoid(1.702 x) (Hendrycks and Gimpel, arXiv 1606.08415): a gate, with an up of 1.
* Positions are lost, but for their mean; in their place every head begins by preferring near patches. What
  else the table told is for `training.pretrain --teacher` to learn anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from secondlook.engine.embedded import DEMO
from secondlook.engine.models.folders import find_folder
from secondlook.engine.models.pictures import Grid
from training.closeups import SIDE, CloseUps
from training.head import PatchHead
from training.model import IMAGE_SIZE, PATCH, pixels_to_float
from training.qwen import Qwen
from training.square import Square

__all__ = ["Teacher", "inherit"]

_SAMPLES: Final = 256
_GELU: Final = 1.702
_NEAR: Final = 3.0
"""Bias of the fastest rotary frequencies in queries and keys: about 0.8 nats for the next patch, 2.6 for the
one behind it."""
_FAST: Final = 6


class Teacher:
    """The first embedded model, for another's tower to learn from."""

    def __init__(self, model: Any) -> None:
        self.model = model.requires_grad_(False)
        self._architecture = Square()

    @classmethod
    def embedded(cls, device: torch.device) -> Teacher:
        """As it ships."""
        folder = find_folder(DEMO)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        )
        return cls(model.to(device))

    def apart(self, features: Tensor, pixels: Sequence[Tensor], corner: Grid) -> Tensor:
        """How far features are from the teacher's rows of the decoder: mean square, over that of these
        around their mean. Of close-ups and square pictures; the others it would see squashed.

        Args:
            features: [R, D] of the patches of all pictures.
            corner: where the teacher takes a close-up to be.
        """
        square = [picture.shape[-2:] in {(SIDE, SIDE), (IMAGE_SIZE, IMAGE_SIZE)} for picture in pixels]
        if not any(square):
            return features.new_zeros((), dtype=torch.float32)
        parts = features.split_with_sizes([picture[0].numel() // PATCH**2 for picture in pixels])
        own = torch.cat([part for part, one in zip(parts, square, strict=True) if one]).float()
        alike = [picture for picture, one in zip(pixels, square, strict=True) if one]
        with torch.no_grad():
            tower = self._architecture.tower(self.model)
            seen = self._architecture.features(tower, alike, corner)
            wanted = self._architecture.visual(self.model, seen).float()
        return functional.mse_loss(own, wanted) / (wanted - wanted.mean(0)).square().mean()


@torch.no_grad()
def inherit(first: Any, second: Any, samples: Tensor) -> None:
    """Give a `Qwen` model what a `Square` one has learnt.

    Args:
        samples: close-ups uint8 [n, 3, S, S], from which the sizes of what is normalised are taken.
    """
    _inherit_tower(first.model.vision_tower, second.model.visual, pixels_to_float(samples))
    source = first.model.language_model.state_dict()
    known = len(source["embed_tokens.weight"])
    for name, there in second.model.language_model.state_dict().items():
        if name == "embed_tokens.weight":
            there[:known] = source[name]
        elif name in source:
            there.copy_(source[name])
        else:
            assert name.endswith("_proj.bias"), name
            there.zero_()


def _inherit_tower(clip: Any, visual: Any, samples: Tensor) -> None:
    embeddings, norm = clip.embeddings, clip.pre_layrnorm
    filters = embeddings.patch_embedding.weight
    place = embeddings.position_embedding.weight[1:].mean(0)
    bare = _centred(functional.conv2d(samples, filters, stride=PATCH).movedim(1, -1).flatten(0, -2) + place)
    scale = norm.weight / bare.square().mean().sqrt()
    embedding = visual.patch_embed.proj.weight  # [D, 3, frames, patch, patch]
    single = _centred((filters.flatten(1) * scale[:, None]).T).T.view_as(filters)
    embedding.copy_((single[:, :, None] / embedding.shape[2]).expand_as(embedding))
    # What all patches have in common Qwen's embedding has no bias for: those of the first layer take it.
    common = _centred(place * scale + norm.bias)
    size = _centred(bare * scale + norm.bias).square().mean().sqrt()
    for number, (theirs, ours) in enumerate(zip(clip.encoder.layers, visual.blocks, strict=True)):
        see, before = theirs.self_attn, theirs.layer_norm1
        projections = (see.q_proj, see.k_proj, see.v_proj)
        weight = torch.cat([each.weight for each in projections])
        shift = before.bias + (before.weight * common / size if number == 0 else 0)
        ours.norm1.weight.copy_(before.weight)
        ours.attn.qkv.weight.copy_(weight)
        ours.attn.qkv.bias.copy_(torch.cat([each.bias for each in projections]) + weight @ shift)
        _prefer_near(ours.attn)
        _write(see.out_proj, ours.attn.proj, 1.0)
        ours.attn.proj.bias.add_(common if number == 0 else 0)
        fc1, after = theirs.mlp.fc1, theirs.layer_norm2
        ours.norm2.weight.copy_(after.weight)
        ours.mlp.gate_proj.weight.copy_(_GELU * fc1.weight)
        ours.mlp.gate_proj.bias.copy_(_GELU * (fc1.bias + fc1.weight @ after.bias))
        ours.mlp.up_proj.weight.zero_()
        ours.mlp.up_proj.bias.fill_(1)
        _write(theirs.mlp.fc2, ours.mlp.down_proj, 1 / _GELU)


def _centred(rows: Tensor) -> Tensor:
    """Less their mean over the channels, the last dimension."""
    return rows - rows.mean(-1, keepdim=True)


def _write(theirs: nn.Linear, ours: nn.Linear, factor: float) -> None:
    """A layer that writes into the residual stream, nothing in the mean over its channels."""
    ours.weight.copy_(factor * _centred(theirs.weight.T).T)
    ours.bias.copy_(_centred(theirs.bias))


def _prefer_near(attention: Any) -> None:
    """Add to the biases of queries and keys what turns with rows and columns: their products fall with
    distance. A head's first half has the frequencies of rows and then of columns, fastest first."""
    biases = attention.qkv.bias.view(3, attention.num_heads, 2, 2, -1)  # [..., half, axis, frequency]
    biases[:2, :, 0, :, :_FAST] += _NEAR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="training folder")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    architecture = Qwen()
    model = architecture.build(architecture.tokenizer(), arguments.seed)
    drawn = islice(CloseUps((1.0,), arguments.seed), _SAMPLES)
    first = Teacher.embedded(torch.device("cpu")).model
    inherit(first, model, torch.stack([pixels for pixels, _ in drawn]))
    head = PatchHead(architecture.width).state_dict()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.save({"tower": architecture.tower(model).state_dict(), "head": head}, arguments.out / "tower.pt")
    torch.save({"model": model.state_dict(), "head": head}, arguments.out / "language.pt")


if __name__ == "__main__":
    main()
