"""What `loradet predict` does once its arguments are parsed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from loradet.config.build import build
from loradet.config.device import choose_device
from loradet.config.intensity import with_intensity_of
from loradet.config.splits import evaluation_mapper
from loradet.evaluation.operating_point import OperatingPoint
from loradet.evaluation.score_thresholds import KEY, choose_thresholds, find_operating_point
from loradet.inference.classes import find_classes
from loradet.inference.exported import ExportedDetector
from loradet.inference.image_files import find_images
from loradet.inference.outcome import Outcome
from loradet.inference.video import predict_files
from loradet.model import load_detector, number_of_classes
from loradet.remote import local_path


def predict_checkpoint(
    cfg: DictConfig,
    checkpoint: str,
    inputs: Sequence[str],
    output: str,
    *,
    score_threshold: float | None = 0.0,
    **options: Any,
) -> Outcome:
    """Run a config's detector with trained weights on images, folders and patterns.

    Args:
        cfg: of the training.
        checkpoint: `.pth`, an adapter's `.safetensors`, or a merged `.pth`.
        inputs: see `find_images`.
        output: folder.
        score_threshold: None: the operating point of the checkpoint, or 0.3 where it has none.
        **options: of `predict_files`.
    """
    files = find_images(inputs)
    cfg = with_intensity_of(cfg, checkpoint)
    device = choose_device(cfg.train.get("device", "auto"))
    model = load_detector(cfg, checkpoint, device=device, merge=True)
    classes = find_classes(cfg, checkpoint, number_of_classes(model))
    views = options.get("views")
    point = find_operating_point(checkpoint, cfg.train.get("output_dir"), views.tag if views else "")
    return predict_files(
        detector=model,
        mapper=build(evaluation_mapper(cfg), "The mapper"),
        classes=classes,
        score_threshold=choose_thresholds(score_threshold, point, classes.names, checkpoint),
        files=files,
        output=output,
        source=Path(checkpoint).name,
        **options,
    )


def predict_exported(
    exported: str,
    inputs: Sequence[str],
    output: str,
    *,
    trusted: bool,
    device: str = "auto",
    score_threshold: float | None = 0.0,
    **options: Any,
) -> Outcome:
    """The same with a file that `loradet.inference.export` wrote.

    Args:
        exported: `.pt2` or `.onnx` file, also by URL.
        inputs: see `find_images`.
        output: folder.
        trusted: see `ExportedDetector.load`.
        device: as `train.device`; of an `.onnx` file as of `OnnxSession`.
        score_threshold: None: the operating point of the file, or 0.3 where it has none.
        **options: of `predict_files`.
    """
    files = find_images(inputs)
    exported = str(local_path(exported))
    # What torch sees says nothing of onnxruntime, which chooses among its own.
    chosen = device if Path(exported).suffix == ".onnx" else choose_device(device)
    detector = ExportedDetector.load(exported, trusted=trusted, device=chosen)
    held = detector.metadata.get(KEY)
    point = None if held is None else OperatingPoint.parse(held, exported)
    return predict_files(
        detector=detector,
        mapper=detector.mapper(),
        classes=detector.classes,
        score_threshold=choose_thresholds(score_threshold, point, detector.classes.names, exported),
        files=files,
        output=output,
        source=Path(exported).name,
        intensity_option="exporting anew with",
        **options,
    )
