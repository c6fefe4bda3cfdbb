"""Writes a detector as one file that says what it is."""

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from loradet import __version__
from loradet.datasets.images.intensity import AUTO, Intensity
from loradet.errors import UserError
from loradet.export.batching import make_batch, read_resized
from loradet.export.classes import Classes
from loradet.export.equality import Equality, Program, UnequalError, check_equal
from loradet.export.exportable.base import OUTPUTS, Exportable
from loradet.export.exportable.registry import exportable
from loradet.export.half_weights import HALF_WEIGHTS, with_half_weights
from loradet.export.metadata import FORMAT
from loradet.export.onnx_file import OPSET, export_onnx, import_onnx, save_onnx
from loradet.export.onnx_program import OnnxProgram
from loradet.export.onnx_session import OnnxSession
from loradet.export.quantize import with_int8
from loradet.export.resizing import Resizing
from loradet.export.torch_program import OPEN, export_program, save_program, smallest_size

logger = logging.getLogger(__name__)

FORMATS = ("torch", "onnx")
SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
_BATCH = 3  # images of a batch that is checked; the example that exporters see has two
_CALIBRATION = 64  # images
_FEW = 5  # detections of an image that say little of a program


@dataclass
class _Made:
    """A program, and what is known of it.

    Attributes:
        open_dims: which of batch, height and width are.
        multiple_of: what height and width are multiples of.
        smallest: (height, width).
        reasons: why dimensions are fixed, by their names.
        equality: what it was checked on.
        save: writes it with its metadata.
        about: more metadata.
        graph: of ONNX.
    """

    open_dims: Sequence[str]
    multiple_of: int
    smallest: list[int]
    reasons: dict[str, str]
    equality: Equality
    save: Callable[[dict[str, Any], Path], None]
    about: dict[str, Any] = field(default_factory=dict)
    graph: Any = None


def export_detector(
    *,
    model: nn.Module,
    output: str | os.PathLike,
    classes: Classes,
    resizing: Resizing,
    intensity: Intensity = AUTO,
    input_size: tuple[int, int],
    dynamic: bool = True,
    format: str | None = None,
    image_format: str = "RGB",
    opset: int = OPSET,
    half_weights: bool = False,
    calibration: Sequence[Path] = (),
    **about: Any,
) -> dict[str, Any]:
    """Write a detector as a `.pt2` file for `torch.export.load`, or as an `.onnx` file.

    Where an exporter cannot keep height and width open, they are fixed, then the batch as well; the metadata say so.
    What was made is compared with the detector on images, and is written only where both find the same.

    Args:
        model: without LoRA layers, in eval mode, on the CPU: see `loradet.export.exportable.FORMS`.
        output: file to write; its folder is made.
        classes: of the model.
        resizing: of the test images.
        intensity: the rule that brings the values of image files into 0..255.
        input_size: (height, width) that a program of fixed size takes, rounded up to what the backbone needs.
        dynamic: whether batch, height and width stay open.
        format: "torch" or "onnx"; None: by the file's name, "torch" for others than `.onnx`.
        image_format: channel order that the model takes, where it does not say so itself.
        opset: version of ONNX's operators.
        half_weights: store weights in half precision, in an ONNX file; they are computed with in float32.
        calibration: image files: compute in 8 bits, in an ONNX file, with the ranges that are seen on these; 64 of
            them at most, spread evenly.
        **about: plain values to store besides, as `checkpoint`.

    Returns:
        The metadata, as in the file.

    Raises:
        ValueError: a model that cannot be exported, or not to this format.
    """
    output = Path(output)
    format = format or ("onnx" if output.suffix == ".onnx" else "torch")
    if (half_weights or calibration) and format != "onnx":
        raise UserError("Weights of half precision and of 8 bits are those of ONNX files: use the format onnx.")
    if half_weights and calibration:
        raise UserError("Weights are stored in half precision or in 8 bits, not both.")
    form = exportable(model, image_format)
    fixed_because = {} if dynamic else {"batch, height and width": "asked for"}
    if (only := form.fixed_size) is not None:
        input_size, reason = only
        dynamic, fixed_because = False, {"batch, height and width": reason}
    elif dynamic and not form.any_size:
        dynamic, fixed_because = False, {"batch, height and width": "programs of any size are not right for it"}
    fixed = form.padded((input_size[0], input_size[1]))
    if format == "onnx":
        made = _as_onnx(form, model, fixed, dynamic, opset, half_weights)
    else:
        made = _as_program(form, model, fixed, dynamic)
    metadata = {
        "format": FORMAT,
        "model": type(model).__name__,
        "classes": classes.names,
        "category_ids": classes.ids,
        "input": {
            "layout": "float32 (N, 3, H, W), RGB, 0..255",
            "names": list(form.inputs),
            "batch": None if "batch" in made.open_dims else 1,
            "size": None if "height" in made.open_dims else list(fixed),
            "multiple_of": made.multiple_of,
            "smallest": made.smallest,
            "fixed_because": fixed_because | made.reasons,
            **({} if form.padding is None else {"padding": form.padding.to_dict()}),
        },
        "outputs": list(OUTPUTS),
        "resize": resizing.to_dict(),
        "intensity": intensity.to_value(),
        **_pixel_statistics(model, form),
        **form.limits(),
        "checked": asdict(made.equality),
        "versions": {"loradet": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__},
        **({"data": "synthetic"} if classes.synthetic else {}),
        **made.about,
        **about,
    }
    if calibration:
        chosen = calibration[:: -(-len(calibration) // _CALIBRATION)]
        metadata["weights"] = f"int8; computed as int8 with the ranges of {len(chosen)} images"
        feeds = _feeds(chosen, resizing, intensity, metadata)
        made.save = partial(save_onnx, with_int8(made.graph, feeds))
    made.save(metadata, output)
    return metadata


def _feeds(
    files: Sequence[Path], resizing: Resizing, intensity: Intensity, metadata: dict[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """What an ONNX file takes, of image after image."""
    for file in files:
        image, _ = read_resized(file, resizing, intensity, metadata["input"])
        yield dict(zip(metadata["input"]["names"], make_batch([image], metadata)))


def _pixel_statistics(model: nn.Module, form: Exportable) -> dict[str, list[float]]:
    statistics: dict[str, Any] = {"pixel_mean": model.pixel_mean, "pixel_std": model.pixel_std}
    return {name: value.flatten().tolist()[:: -1 if form.is_bgr else 1] for name, value in statistics.items()}


def _as_program(form: Exportable, model: nn.Module, fixed: tuple[int, int], dynamic: bool) -> _Made:
    program, open_dims, reasons = export_program(form, fixed, dynamic)
    run, divisor = program.module(), form.multiple_of
    is_open = "height" in open_dims
    smallest = smallest_size(run, form, divisor) if is_open else list(fixed)

    def again() -> Program:
        return export_program(form, fixed, dynamic)[0].module()

    try:
        equality = _check(run, again, form, model, smallest, open_dims, divisor)
    except UnequalError as error:
        if not is_open:
            raise UserError(_refusal(model, [f"torch.export: {error}"])) from error
        made = _as_program(form, model, fixed, False)
        made.reasons = {"batch, height and width": f"torch.export, any size: {error}"}
        return made
    return _Made(open_dims, divisor, smallest, reasons, equality, partial(save_program, program))


def _as_onnx(
    form: Exportable, model: nn.Module, fixed: tuple[int, int], dynamic: bool, opset: int, half_weights: bool
) -> _Made:
    onnx = import_onnx()
    form = copy.copy(form)  # a module with the same parts
    form.for_onnx = True
    failures: list[str] = []
    for open_dims, exporter in product([OPEN, ()] if dynamic else [()], form.exporters):
        make = partial(export_onnx, form, exporter, fixed, dynamic=bool(open_dims), opset=opset)
        try:
            graph = make()
            run = _program_of(graph)
            smallest = smallest_size(run, form, 16) if open_dims else list(fixed)
            equality = _check(run, lambda: _program_of(make()), form, model, smallest, open_dims, 1)  # noqa: B023
        except UserError as error:
            failures.append(f"{'any size' if open_dims else 'one size'}, {exporter}: {error}")
            logger.debug("%s", failures[-1], exc_info=error)
            continue
        about: dict[str, Any] = {"exporter": exporter, "opset": graph.opset_import[0].version}
        about["onnx"] = onnx.__version__
        if half_weights:
            graph, about["weights"] = with_half_weights(graph), HALF_WEIGHTS
            _program_of(graph)
        multiple = 1 if open_dims else form.multiple_of
        reasons = {"batch, height and width": "; ".join(failures)} if failures and not open_dims else {}
        return _Made(open_dims, multiple, smallest, reasons, equality, partial(save_onnx, graph), about, graph)
    raise UserError(_refusal(model, failures))


def _check(
    run: Program,
    again: Callable[[], Program],
    form: Exportable,
    model: nn.Module,
    smallest: Sequence[int],
    open_dims: Sequence[str],
    multiple: int,
) -> Equality:
    """Compare a program with its detector; where that finds nothing, what `again` makes without a score threshold."""
    batch = _BATCH if "batch" in open_dims else 1
    sizes = _sizes_to_check(smallest, multiple) if "height" in open_dims else [(smallest[0], smallest[1])]
    equality = check_equal(run, model, form, sizes, batch=batch)
    threshold = form.score_threshold
    if equality.detections >= _FEW * equality.images or not threshold:
        return equality
    form.score_threshold = 0.0
    try:
        return check_equal(again(), model, form, sizes, batch=batch)
    finally:
        form.score_threshold = threshold


def _program_of(graph: Any) -> Program:
    return OnnxProgram(OnnxSession(graph.SerializeToString()))


def _sizes_to_check(smallest: Sequence[int], multiple: int) -> list[tuple[int, int]]:
    """Two sizes that differ in both sides and in which is the longer one."""
    low = max(smallest[0], 64)
    sizes = [(low + 61, low + 203), (low + 128, low)]
    return [(-(-height // multiple) * multiple, -(-width // multiple) * multiple) for height, width in sizes]


def _refusal(model: nn.Module, failures: Sequence[str]) -> str:
    return f"This {type(model).__name__} was not exported: {'; '.join(failures)}."
