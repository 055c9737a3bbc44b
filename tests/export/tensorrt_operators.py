"""The ONNX operators that TensorRT's parser takes, as facts.

Source: docs/operators.md of https://github.com/onnx/onnx-tensorrt, rows with "Y", at the commits below;
10.0's table is also that of TensorRT 10.1, and 11.0 has all of its operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SOURCES: Final = {
    "10.0": "96e781103cfc4adf4a6bb557e94bac8e693f6f4c",
    "11.0": "2f3fa349247d9ff52d7662cb995c82278df31a86",
}
"""The commits, by the version that the table names itself."""
OPSETS: Final = {"10.0": (9, 20), "11.0": (9, 24)}
"""The lowest and the highest operator set, both included."""

_IN_10: Final = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike
    Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv
    DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity If ImageScaler
    InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN
    LSTM LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
    NonMaxSuppression NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
    Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_SINCE: Final = """
    Attention BlackmanWindow HammingWindow HannWindow RMSNormalization RotaryEmbedding STFT Swish
    TensorScatter
"""
SUPPORTED: Final = {
    "10.0": frozenset(_IN_10.split()),
    "11.0": frozenset((_IN_10 + _SINCE).split()),
}


def unsupported(operators: Iterable[str]) -> dict[str, set[str]]:
    """The operators of a graph that a version's parser does not take, by version; empty if all take all."""
    names = set(operators)
    return {version: lacking for version, known in SUPPORTED.items() if (lacking := names - known)}
