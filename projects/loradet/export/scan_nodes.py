"""The selective scan of Vision Mamba as ONNX's `Scan`: a step of the recurrence, for as many tokens as there are."""

from typing import Any

import numpy as np

DOMAIN = "loradet"
_NAME = "SelectiveScan"
_TWO, _THREE = _AXES = (f"{DOMAIN}.two", f"{DOMAIN}.three")


def placeholder(g: Any, u: Any, delta: Any, A: Any, B: Any, C: Any, *_: Any) -> Any:  # noqa: N803 (as the papers)
    """The node that torch's exporter puts for `loradet::chunked_scan`, until `with_scans` takes its place."""
    # Without a type: that of u has the example's sizes, which would be taken for fixed.
    return g.op(f"{DOMAIN}::{_NAME}", u, delta, A, B, C, outputs=3)


def with_scans(graph: Any) -> Any:
    """An `onnx.ModelProto` whose placeholders are `Scan` nodes; the model itself is changed.

    The recurrence is that of `loradet.backbones.selective_scan_chunked`:
    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = sum_n C_t h_t.
    """
    from onnx import numpy_helper

    nodes = []
    for node in graph.graph.node:
        nodes += _scan(node) if node.domain == DOMAIN and node.op_type == _NAME else [node]
    if len(nodes) > len(graph.graph.node):
        del graph.graph.node[:]
        graph.graph.node.extend(nodes)
        graph.graph.initializer.extend(numpy_helper.from_array(np.array([i]), name) for i, name in enumerate(_AXES, 2))
        kept = [one for one in graph.opset_import if one.domain != DOMAIN]
        del graph.opset_import[:]
        graph.opset_import.extend(kept)
    return graph


def _scan(node: Any) -> list[Any]:
    """Nodes in place of one: u and delta are (B, L, G, P), A is (G, N, P), B and C are (B, L, G, N)."""
    from onnx import TensorProto
    from onnx.helper import make_graph, make_node, make_tensor, make_tensor_value_info

    u, delta, a, b, c = node.input
    at = node.output[0]

    def body(op: str, *names: str) -> Any:
        *inputs, output = names
        return make_node(op, [name if name in (a, *_AXES) else f"{at}.{name}" for name in inputs], [f"{at}.{output}"])

    steps = [
        body("Unsqueeze", "delta_t", _TWO, "delta_4"),
        body("Mul", "delta_4", a, "exponent"),
        body("Exp", "exponent", "decay"),
        body("Mul", "delta_t", "u_t", "driven"),
        body("Unsqueeze", "driven", _TWO, "driven_4"),
        body("Unsqueeze", "b_t", _THREE, "b_4"),
        body("Mul", "driven_4", "b_4", "drive"),
        body("Mul", "decay", "h", "decayed"),
        body("Add", "decayed", "drive", "h_t"),
        body("Unsqueeze", "c_t", _TWO, "c_4"),
        body("MatMul", "c_4", "h_t", "y_4"),
        body("Squeeze", "y_4", _TWO, "y_t"),
    ]

    def values(*names: str) -> list[Any]:
        return [make_tensor_value_info(f"{at}.{name}", TensorProto.FLOAT, None) for name in names]

    step = make_graph(steps, f"{at}.step", values("h", "u_t", "delta_t", "b_t", "c_t"), values("h_t", "y_t"))
    zero = make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    return [
        make_node("Shape", [u], [f"{at}.batch"], start=0, end=1),
        make_node("Shape", [a], [f"{at}.sizes"]),
        make_node("Concat", [f"{at}.batch", f"{at}.sizes"], [f"{at}.shape"], axis=0),
        make_node("ConstantOfShape", [f"{at}.shape"], [f"{at}.start"], value=zero),
        make_node(
            "Scan",
            [f"{at}.start", u, delta, b, c],
            [f"{at}.last", at],
            body=step,
            num_scan_inputs=4,
            scan_input_axes=[1, 1, 1, 1],
            scan_output_axes=[1],
        ),
    ]
