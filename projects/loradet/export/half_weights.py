"""Weights of an ONNX graph in half precision."""

from typing import Any

import numpy as np

from loradet.errors import UserError

HALF_WEIGHTS = "stored as float16, computed as float32"
_LEAST = 256  # values of a tensor; smaller ones are biases and constants


def with_half_weights(graph: Any) -> Any:
    """A copy of an `onnx.ModelProto` whose large tensors are float16, turned into float32 where they are used.

    onnxruntime does that once, when it loads the file. The file takes half of the bytes; scores move by 1e-3 or so.

    Raises:
        UserError: a weight is too large for half precision.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(graph)
    casts = []
    for tensor in result.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _LEAST:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(f"{name} has values up to {np.abs(values).max():g}, half precision ends at 65504.")
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
