"""INT8 by onnxruntime's static quantisation."""

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from loradet.errors import UserError

# What computes: what is around it (normalisation, anchors, NMS) stays in float32.
_OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def with_int8(graph: Any, feeds: Iterable[dict[str, np.ndarray]]) -> Any:
    """A graph that computes convolutions and matrix products in 8 bits, with ranges seen on images.

    Weights have a scale a channel; the ranges of activations are the least and the largest value that was seen.

    Args:
        graph: `onnx.ModelProto`.
        feeds: inputs by name, of the images that the ranges are seen on.

    Raises:
        UserError: onnxruntime cannot quantise it, with what it says.
    """
    import onnx

    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise UserError(f"onnxruntime cannot quantise here: {error}; pip install 'loradet[onnx]'.") from error
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(graph, str(source))
        try:
            with warnings.catch_warnings(), _silent_root():
                warnings.simplefilter("ignore")
                quantization.quantize_static(
                    str(source),
                    str(target),
                    _Reader(feeds),
                    quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=list(_OPERATORS),
                    per_channel=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                )
        except (UserError, OSError):  # an image
            raise
        except Exception as error:  # it raises many kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"onnxruntime cannot quantise this model: {lines[0]}") from error
        return onnx.load(str(target))


class _Reader:
    """onnxruntime's `CalibrationDataReader`: one input after the other, then None."""

    def __init__(self, feeds: Iterable[dict[str, np.ndarray]]):
        self._rest: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


class _silent_root:  # noqa: N801 (a context manager)
    """onnxruntime's quantiser warns through the root logger."""

    def __enter__(self) -> None:
        self._before = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self._before)
