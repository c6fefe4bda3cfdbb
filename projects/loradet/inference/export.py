"""Writes a detector as a torch.export program that says what it is."""

import io
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from omegaconf import DictConfig
from torch import nn
from torch.export import Dim, ExportedProgram

from loradet import __version__
from loradet.config.build import build
from loradet.config.intensity import with_intensity_of
from loradet.config.splits import evaluation_mapper
from loradet.datasets.images.intensity import AUTO, Intensity
from loradet.datasets.mapper import intensity_of
from loradet.errors import UserError
from loradet.evaluation.score_thresholds import KEY, find_operating_point
from loradet.files import atomic_open
from loradet.inference.classes import Classes, find_classes
from loradet.inference.exportable import OUTPUTS, ExportableRetinaNet
from loradet.inference.metadata import FORMAT, METADATA_FILE
from loradet.inference.resizing import Resizing
from loradet.model import load_detector, number_of_classes

logger = logging.getLogger(__name__)

# In multiples of the size divisibility: every map of the pyramid has several positions on both axes, and no two
# dimensions are equal, so that torch.export takes none of them for a constant or for one another.
_EXAMPLE = (9, 13)
_EXAMPLE_BATCH = 2


def export_checkpoint(
    cfg: DictConfig,
    checkpoint: str,
    output: str,
    *,
    input_size: tuple[int, int] | None = None,
    dynamic: bool = True,
) -> dict[str, Any]:
    """Export a config's detector with trained weights, LoRA merged; returns the file's metadata.

    Args:
        cfg: of the training.
        checkpoint: `.pth`, an adapter's `.safetensors`, or a merged `.pth`.
        output: `.pt2` file.
        input_size: (height, width) of a program of fixed size; by default that of the largest test image.
        dynamic: leave batch, height and width open where torch.export can.

    Raises:
        ValueError: the size is not known, or the model cannot be exported.
    """
    cfg = with_intensity_of(cfg, checkpoint)
    mapper = build(evaluation_mapper(cfg), "The mapper")
    resizing = Resizing.from_augmentations(mapper.augmentations.augs)
    size = input_size or resizing.input_size()
    model = load_detector(cfg, checkpoint, merge=True)
    point = find_operating_point(checkpoint, cfg.train.get("output_dir"))
    return export_detector(
        model=model,
        output=output,
        classes=find_classes(cfg, checkpoint, number_of_classes(model)),
        resizing=resizing,
        intensity=intensity_of(mapper),
        input_size=size,
        dynamic=dynamic,
        checkpoint=Path(checkpoint).name,
        **({} if point is None else {KEY: point.to_dict()}),
    )


def export_detector(
    *,
    model: nn.Module,
    output: str | os.PathLike,
    classes: Classes,
    resizing: Resizing,
    intensity: Intensity = AUTO,
    input_size: tuple[int, int],
    dynamic: bool = True,
    **about: Any,
) -> dict[str, Any]:
    """Write a detector as a `.pt2` file for `torch.export.load`.

    Where torch.export cannot keep height and width open, they are fixed, then the batch as well; the metadata say so.

    Args:
        model: a RetinaNet without LoRA layers, in eval mode, on the CPU.
        output: file to write; its folder is made.
        classes: of the model.
        resizing: of the test images.
        intensity: the rule that brings the values of image files into 0..255.
        input_size: (height, width) that a program of fixed size takes, rounded up to what the backbone needs.
        dynamic: whether batch, height and width stay open.
        **about: plain values to store besides, as `checkpoint`.

    Returns:
        The metadata, as in the file.

    Raises:
        ValueError: a model that cannot be exported.
    """
    module = ExportableRetinaNet(model=model)
    model = cast(RetinaNet, model)  # the line above has refused others
    divisor = max(1, model.backbone.size_divisibility)
    fixed_because = {} if dynamic else {"batch, height and width": "asked for"}
    if square := getattr(model.backbone, "padding_constraints", {}).get("square_size", 0):
        input_size, dynamic = (square, square), False
        fixed_because = {"batch, height and width": f"the backbone takes squares of {square} pixels"}
    height, width = (-(-side // divisor) * divisor for side in input_size)
    fixed = (height, width)
    program, open_dims, reasons = _export(module, fixed, divisor, dynamic)
    smallest = _smallest(program, divisor, fixed, open_dims)
    statistics: dict[str, Any] = {"pixel_mean": model.pixel_mean, "pixel_std": model.pixel_std}
    metadata = {
        "format": FORMAT,
        "model": type(model).__name__,
        "classes": classes.names,
        "category_ids": classes.ids,
        "input": {
            "layout": "float32 (N, 3, H, W), RGB, 0..255",
            "batch": None if "batch" in open_dims else 1,
            "size": None if "height" in open_dims else list(fixed),
            "multiple_of": divisor,
            "smallest": smallest,
            "fixed_because": fixed_because | reasons,
        },
        "outputs": list(OUTPUTS),
        "resize": resizing.to_dict(),
        "intensity": intensity.to_value(),
        **{name: value.flatten().tolist()[:: -1 if module.is_bgr else 1] for name, value in statistics.items()},
        "score_threshold": float(model.test_score_thresh),
        "nms_threshold": float(model.test_nms_thresh),
        "candidates_per_level": int(model.test_topk_candidates),
        "max_detections": int(model.max_detections_per_image),
        "versions": {"loradet": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__},
        **({"data": "synthetic"} if classes.synthetic else {}),
        **about,
    }
    _save(program, metadata, Path(output))
    return metadata


def _export(
    module: nn.Module, fixed: tuple[int, int], divisor: int, dynamic: bool
) -> tuple[ExportedProgram, tuple[str, ...], dict[str, str]]:
    """The most open program that torch.export makes, its open dimensions, and why it fixed others."""
    attempts = [(), ("batch",), ("batch", "height", "width")] if dynamic else [()]
    reasons: dict[str, str] = {}
    while True:
        open_dims = attempts.pop()
        try:
            program = _export_with(module, fixed, divisor, open_dims)
        except Exception as error:  # torch.export raises many kinds
            if not attempts:
                raise UserError(f"torch.export cannot export this model: {_reason(error)}") from error
            lost = " and ".join(name for name in open_dims if name not in attempts[-1])
            logger.debug("torch.export cannot leave %s open", lost, exc_info=error)
            reasons[lost] = f"torch.export: {_reason(error)}"
            continue
        # Nobody needs the pixels, nor the conditions that torch makes of them, which are stricter than needed.
        program.example_inputs = None
        return program, open_dims, reasons


def _export_with(module: nn.Module, fixed: tuple[int, int], divisor: int, open_dims: Sequence[str]) -> ExportedProgram:
    shapes: dict[int, Any] = {}
    size = fixed
    if "batch" in open_dims:
        shapes[0] = Dim("batch", min=1)
    if "height" in open_dims:
        shapes[2], shapes[3] = (divisor * Dim(name, min=2) for name in ("rows", "columns"))
        rows, columns = _EXAMPLE
        size = (divisor * rows, divisor * columns)
    example = torch.rand(_EXAMPLE_BATCH if "batch" in open_dims else 1, 3, *size) * 255
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's NMS uses an older name in torch
        return torch.export.export(module, (example,), dynamic_shapes=(shapes or None,), strict=False)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _smallest(program: ExportedProgram, divisor: int, fixed: tuple[int, int], open_dims: Sequence[str]) -> list[int]:
    """The smallest (height, width) that the program takes: torch.export adds conditions of its own."""
    if "height" not in open_dims:
        return list(fixed)
    run = program.module()
    for count in range(1, max(_EXAMPLE) + 1):
        side = divisor * count
        try:
            with torch.no_grad():
                for height, width in ((side, side), (side, side + divisor), (side + divisor, side)):
                    run(torch.zeros(1, 3, height, width))
        except (RuntimeError, AssertionError) as error:
            logger.debug("%d pixels are too few: %s", side, _reason(error))
            continue
        return [side, side]
    raise UserError(f"The exported program takes none of the sizes up to {divisor * max(_EXAMPLE)} pixels.")


def _save(program: ExportedProgram, metadata: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metadata, indent=2, allow_nan=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: text})
    with atomic_open(output, "wb") as file:
        file.write(buffer.getbuffer())
