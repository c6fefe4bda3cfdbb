"""A config's detector with trained weights, written as one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from loradet.adapters.files.adapter_file import read_adapter
from loradet.config.build import build
from loradet.config.intensity import with_intensity_of
from loradet.config.splits import evaluation_mapper
from loradet.datasets.mapper import intensity_of
from loradet.evaluation.score_thresholds import KEY, find_operating_point
from loradet.export.detector import export_detector
from loradet.export.onnx_file import OPSET
from loradet.export.resizing import Resizing
from loradet.inference.classes import find_classes
from loradet.inference.image_files import find_images
from loradet.model import load_detector, number_of_classes
from loradet.remote import is_url, local_path

__all__ = ["export_checkpoint", "export_detector"]


def export_checkpoint(
    cfg: DictConfig,
    checkpoint: str,
    output: str,
    *,
    input_size: tuple[int, int] | None = None,
    dynamic: bool = True,
    format: str | None = None,
    opset: int = OPSET,
    half_weights: bool = False,
    calibration: Sequence[str] = (),
) -> dict[str, Any]:
    """Export a config's detector with trained weights, LoRA merged; returns the file's metadata.

    Args:
        cfg: of the training.
        checkpoint: `.pth`, an adapter's `.safetensors`, or a merged `.pth`.
        output: file to write.
        input_size: (height, width) of a program of fixed size; by default that of the largest test image.
        dynamic: leave batch, height and width open where the exporter can.
        format, opset, half_weights: see `export_detector`.
        calibration: images to compute in 8 bits by, see `find_images` and `export_detector`.

    Raises:
        ValueError: the size is not known, or the model cannot be exported.
    """
    cfg = with_intensity_of(cfg, checkpoint)
    mapper = build(evaluation_mapper(cfg), "The mapper")
    resizing = Resizing.from_augmentations(mapper.augmentations.augs)
    size = input_size or resizing.input_size()
    model = load_detector(cfg, checkpoint, merge=True)
    point = find_operating_point(checkpoint, cfg.train.get("output_dir"))
    recipes = adapter_recipes(checkpoint)
    return export_detector(
        model=model,
        output=output,
        classes=find_classes(cfg, checkpoint, number_of_classes(model)),
        resizing=resizing,
        intensity=intensity_of(mapper),
        input_size=size,
        dynamic=dynamic,
        format=format,
        image_format=mapper.image_format,
        opset=opset,
        half_weights=half_weights,
        calibration=find_images(calibration),
        checkpoint=Path(checkpoint).name,
        **({} if point is None else {KEY: point.to_dict()}),
        **({"adapter": recipes} if recipes else {}),
    )


def adapter_recipes(checkpoint: str) -> dict[str, Any]:
    """What was frozen and wrapped in a checkpoint or an adapter, by module path; {} where it does not say."""
    if checkpoint.endswith(".safetensors"):
        return read_adapter(checkpoint)[0]["recipes"]
    if "://" in checkpoint and not is_url(checkpoint):
        return {}
    content = torch.load(local_path(checkpoint), map_location="cpu", weights_only=True, mmap=True)
    return content.get("adapter_recipes") or {}
