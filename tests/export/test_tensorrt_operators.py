"""Every operator of an exported encoder is one that TensorRT's parser takes.

Source: docs/operators.md of https://github.com/onnx/onnx-tensorrt, rows with "Y", at commit
96e781103cfc4adf4a6bb557e94bac8e693f6f4c, of TensorRT 10.0, whose table is also that of 10.1. At
2f3fa349247d9ff52d7662cb995c82278df31a86 the table of 11.0 has all of these operators, and later ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

from export.support import GRAPH_FILE, small_model
from secondlook.export.graph import write_encoder

TAKEN: Final = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast
    CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity If
    ImageScaler InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization
    Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad ParametricSoftplus Pow PRelu
    QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu
    Unsqueeze Upsample Where Xor
"""


def test_every_operator_of_an_exported_encoder_is_taken(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    write_encoder(model, "float16", 18, tmp_path)  # it has the casts of half precision too
    graph = onnx.load(tmp_path / GRAPH_FILE, load_external_data=False).graph
    assert {node.op_type for node in graph.node} <= set(TAKEN.split())
