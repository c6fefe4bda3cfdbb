"""A detector as an ONNX file."""

import contextlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from loradet.errors import UserError
from loradet.export.exportable.base import OUTPUTS, Exportable
from loradet.export.metadata import METADATA_FILE
from loradet.export.scan_nodes import placeholder, with_scans
from loradet.export.torch_program import OPEN, example_inputs, open_size, reason_of
from loradet.files import atomic_open

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

OPSET = 18
_LEAST_OF_DYNAMO = 18
ADVICE = "pip install 'loradet[onnx]' brings it"
_LARGEST = 1 << 31  # bytes of a protobuf message


def import_onnx() -> Any:
    """The package `onnx`, or one line that says how to get it."""
    try:
        import onnx
    except ImportError as error:
        raise UserError(f"ONNX files are written by the package onnx, which is not installed: {ADVICE}.") from error
    return onnx


def export_onnx(
    form: Exportable, exporter: str, size: tuple[int, int], *, dynamic: bool, opset: int = OPSET
) -> "onnx.ModelProto":
    """The graph of a detector.

    Args:
        form: of the detector, `for_onnx`.
        exporter: of torch, "torchscript" or "dynamo".
        size: (height, width) of a graph of fixed size.
        dynamic: whether batch, height and width stay open.
        opset: version of ONNX's operators.

    Raises:
        UserError: torch cannot, with what it says; or the graph is larger than a file of its kind may be.
    """
    onnx = import_onnx()
    if exporter == "dynamo" and opset < _LEAST_OF_DYNAMO:
        raise UserError(f"torch.onnx (dynamo) has no opset {opset}: give --opset {_LEAST_OF_DYNAMO}, or none.")
    if dynamic:
        size = open_size(form.multiple_of)
    example = example_inputs(form, size, 2 if dynamic else 1)
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), _quiet():
            if exporter == "torchscript":
                _by_torchscript(form, example, buffer, dynamic, opset)
            else:
                _by_dynamo(form, example, buffer, dynamic, opset)
    except ImportError as error:
        raise UserError(f"torch's exporter to ONNX lacks a package: {reason_of(error)}; {ADVICE}.") from error
    except Exception as error:  # it raises many kinds
        logger.debug("torch.onnx (%s) failed", exporter, exc_info=error)
        raise UserError(f"torch.onnx ({exporter}, opset {opset}) cannot: {reason_of(error)}") from error
    if buffer.tell() >= _LARGEST:
        raise UserError(f"The model has {buffer.tell() >> 20} MiB, an ONNX file of one piece has 2047 at most.")
    return with_scans(onnx.load_from_string(buffer.getvalue()))


def _by_torchscript(form: Exportable, example: tuple, buffer: io.BytesIO, dynamic: bool, opset: int) -> None:
    axes = {"images": dict(zip((0, 2, 3), OPEN)), "sizes": {0: "batch"}, **{name: {0: "batch"} for name in OUTPUTS}}
    names = {*form.inputs, *OUTPUTS}
    symbolics = {
        "aten::_upsample_bicubic2d_aa": _resize_bicubic,
        "aten::rms_norm": _rms_norm,
        "loradet::chunked_scan": placeholder,
    }
    for name, symbolic in symbolics.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, 18)
    torch.onnx.export(
        form,
        example,
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=list(form.inputs),
        output_names=list(OUTPUTS),
        dynamic_axes={name: axis for name, axis in axes.items() if name in names} if dynamic else None,
    )


def _resize_bicubic(g: Any, x: Any, size: Any, align_corners: Any, *_: Any) -> Any:
    """torch's bicubic resize with antialias, by which timm resizes position embeddings; the exporter has none."""
    from torch.onnx.symbolic_helper import _maybe_get_const, _unpack_list

    if _maybe_get_const(align_corners, "b"):
        raise NotImplementedError("a bicubic resize with align_corners=True")
    first = g.op("Constant", value_t=torch.tensor([0]))
    head = g.op("Slice", g.op("Shape", x), first, g.op("Constant", value_t=torch.tensor([2])))
    if (constant := _maybe_get_const(size, "is")) is not size:
        sides = g.op("Constant", value_t=torch.tensor(constant))
    else:
        one = g.op("Constant", value_t=torch.tensor([1]))
        sides = g.op("Concat", *(g.op("Reshape", side, one) for side in _unpack_list(size)), axis_i=0)
    empty = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
    return g.op(
        "Resize",
        *(x, empty, empty, g.op("Concat", head, sides, axis_i=0)),
        antialias_i=1,
        coordinate_transformation_mode_s="pytorch_half_pixel",
        cubic_coeff_a_f=-0.5,
        exclude_outside_i=1,
        mode_s="cubic",
    )


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """RMS norm over the last axis, which the exporter has in later opsets alone."""
    from torch.onnx.symbolic_helper import _is_none, _is_packed_list, _maybe_get_const, _unpack_list

    if len(_unpack_list(shape) if _is_packed_list(shape) else _maybe_get_const(shape, "is")) != 1:
        raise NotImplementedError("an RMS norm over more than one axis")
    value = torch.finfo(torch.float32).eps if _is_none(eps) else _maybe_get_const(eps, "f")
    last = g.op("Constant", value_t=torch.tensor([-1]))
    mean = g.op("ReduceMean", g.op("Mul", x, x), last)
    root = g.op("Sqrt", g.op("Add", mean, g.op("Constant", value_t=torch.tensor(float(value)))))
    normed = g.op("Div", x, root)
    return normed if _is_none(weight) else g.op("Mul", normed, weight)


def _by_dynamo(form: Exportable, example: tuple, buffer: io.BytesIO, dynamic: bool, opset: int) -> None:
    shapes = [dict(zip((0, 2, 3), (torch.export.Dim(name) for name in OPEN)))]
    shapes.append({0: shapes[0][0]})
    program = torch.onnx.export(
        form,
        example,
        dynamo=True,
        opset_version=opset,
        input_names=list(form.inputs),
        output_names=list(OUTPUTS),
        dynamic_shapes=tuple(shapes[: len(example)]) if dynamic else None,
        verbose=False,
    )
    buffer.write(program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters warn of: the numbers of every export are checked."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _no_output():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels):
            one.setLevel(level)


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Without the process's standard output and error, to which torch's C++ prints graphs and warnings."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (no path)
        kept = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in kept:
                os.dup2(nowhere.fileno(), number)
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)


def save_onnx(graph: "onnx.ModelProto", metadata: dict[str, Any], output: Path) -> None:
    """Write an `.onnx` file with its metadata."""
    import_onnx().helper.set_model_props(graph, {METADATA_FILE: json.dumps(metadata, indent=2, allow_nan=False)})
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(output, "wb") as file:
        file.write(graph.SerializeToString())
