"""Writes low_bit.safetensors: what others' packages store of a small layer, and the weights they read of it.

Run once, with compressed-tensors 0.20.0 installed, auto_gptq 0.7.1 and autoawq 0.2.9 unpacked:

    python tests/golden/low_bit.py AUTO_GPTQ/qlinear_cuda_old.py AUTOAWQ/awq OUTPUT
"""

import importlib.util
import sys
import types
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from torch import Tensor, nn

INPUTS, OUTPUTS = 64, 32


def module(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def rounded(bits: int, group: int, symmetric: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [outputs, inputs] on a grid, its scales and unsigned zeros [outputs, groups]."""
    generator = torch.Generator().manual_seed(seed)
    groups, most = INPUTS // group, 2**bits
    scales = (0.01 + 0.1 * torch.rand(OUTPUTS, groups, generator=generator)).half().float()
    zeros = torch.full((OUTPUTS, groups), most // 2)
    if not symmetric:  # not 0: AutoGPTQ spoils such zeros' neighbours in packing
        zeros = torch.randint(1, most, (OUTPUTS, groups), generator=generator)
    values = torch.randint(0, most, (OUTPUTS, INPUTS), generator=generator)
    each = values - zeros.repeat_interleave(group, 1)
    return each * scales.repeat_interleave(group, 1), scales, zeros


def linear(weight: Tensor, dtype: torch.dtype = torch.float32) -> nn.Linear:
    layer = nn.Linear(INPUTS, OUTPUTS, bias=False, dtype=dtype)
    layer.weight.data = weight.to(dtype)
    return layer


def main(gptq_file: str, awq_folder: str, output: str) -> None:
    found: dict[str, Tensor] = {}

    def keep(name: str, parts: dict[str, Tensor], weight: Tensor) -> None:
        for part, tensor in {**parts, "expected": weight.half()}.items():
            found[f"{name}.{part}"] = tensor.detach().contiguous()

    gptq = module("qlinear_cuda_old", Path(gptq_file))
    for bits, group, symmetric in ((4, 32, False), (4, 64, True), (8, 32, False)):
        weight, scales, zeros = rounded(bits, group, symmetric, bits + group)
        layer = gptq.QuantLinear(bits, group, INPUTS, OUTPUTS, bias=False)
        layer.pack(linear(weight), scales.clone(), zeros.clone().float(), None)
        parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
        parts |= {"scales": parts["scales"].half(), "g_idx": (torch.arange(INPUTS) // group).int()}
        layer.scales = parts["scales"].float()
        keep(f"gptq-{bits}-{group}", parts, layer(torch.eye(INPUTS)).T)

    packing = module("awq.utils.packing_utils", Path(awq_folder) / "utils/packing_utils.py")
    for name in ("awq", "awq.utils", "awq.utils.module", "awq.utils.utils"):  # which would ask for a GPU
        sys.modules[name] = types.ModuleType(name)
    sys.modules["awq.utils.module"].try_import = lambda name: (None, "")
    sys.modules["awq.utils.utils"].get_best_device = lambda: "cpu"
    gemm = module("awq_gemm", Path(awq_folder) / "modules/linear/gemm.py")
    weight, scales, zeros = rounded(4, 32, False, 1)
    layer = gemm.WQLinear_GEMM.from_linear(
        linear(weight), 4, 32, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    keep("awq", parts, packing.dequantize_gemm(*(parts[n] for n in ("qweight", "qzeros", "scales")), 4, 32).T)

    for name, form, bits, strategy, group, symmetric in (
        ("compressed-tensors-4-group", "pack-quantized", 4, "group", 32, True),
        ("compressed-tensors-4-zeros", "pack-quantized", 4, "group", 32, False),
        ("compressed-tensors-8-channel", "pack-quantized", 8, "channel", None, True),
        ("compressed-tensors-8-tensor", "int-quantized", 8, "tensor", None, True),
        ("compressed-tensors-8-zeros", "int-quantized", 8, "channel", None, False),
    ):
        weight, scales, zeros = rounded(bits, group or INPUTS, symmetric, len(name))
        if strategy == "tensor":
            weight, scales = weight / scales * scales[:1], scales[0]
        args = QuantizationArgs(num_bits=bits, strategy=strategy, group_size=group, symmetric=symmetric)
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        state = {"weight": weight, "weight_scale": scales}
        if not symmetric:
            state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
        compressor = BaseCompressor.get_value_from_registry(form)
        parts = compressor.compress(state, scheme)
        keep(name, parts, compressor.decompress(parts, scheme)["weight"])
    save_file(found, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
