"""Training images as the model sees them: read, augmented, with the boxes that are left."""

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.detection_utils import convert_image_to_rgb
from omegaconf import DictConfig

from loradet.config.augment import KEY, choose_augmentations, presets
from loradet.config.build import build
from loradet.config.intensity import check_images
from loradet.datasets.loader import FailedSample, SampleError, TrainLoader
from loradet.errors import UserError
from loradet.evaluation.split_loop import dataset_metadata
from loradet.visualization.grid import Cell, grid, wrap
from loradet.visualization.loaded_split import origin
from loradet.visualization.painting import LabelledBoxes, enlarge, legend, paint_boxes, save_png
from loradet.visualization.text import GAP, text_block

COLUMNS = 4
DEFAULT_SAMPLES = 12
DEFAULT_DRAWS = 4
FRAME = 300  # pixels of a cell's longer edge


def paint_training_samples(
    cfg: DictConfig, output: str | os.PathLike, *, names: Sequence[str] = (), num_images: int | None = None
) -> list[Path]:
    """Paint the first samples of a run, in its order and with its random numbers; no model is built.

    Args:
        cfg: with `dataloader.train`.
        output: a PNG file, or a folder that gets `augmented.png`.
        names: presets of `data.augment`, a row for each: draws of the run's first image. Without any, the samples are
            those of the config's own augmentations.
        num_images: samples (12), or with presets draws of each (4).

    Returns:
        The file written.

    Raises:
        UserError: no such preset, a loader of another kind than `build_train_loader`'s, or an image that cannot be
            read.
    """
    count = num_images if num_images is not None else DEFAULT_DRAWS if names else DEFAULT_SAMPLES
    if count < 1:
        raise UserError(f"--num-images {count}: expected 1 or more.")
    known = presets()
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"--augmented {','.join(unknown)}: there is no such preset; expected of {', '.join(known)}.")
    rows, classes, metadata = [], set(), None
    for name in names or (None,):
        shown = cfg if name is None else _with_preset(cfg, name)
        loader = _loader(shown)
        metadata = metadata or dataset_metadata(shown, "train")
        rows.append([])
        for sample in _draws(loader, count) if names else _samples(loader, count):
            boxes = _boxes(sample)
            classes.update(boxes.classes.tolist())
            picture = _picture(sample, shown.dataloader.train.mapper.image_format)
            rows[-1].append((name or Path(sample["file_name"]).name, picture, boxes))
    class_names = list(metadata.thing_classes)
    rows = rows if names else wrap(rows[0], COLUMNS)
    # All are enlarged alike, so that sizes can be compared.
    factor = FRAME / max(max(picture.shape[:2]) for row in rows for _, picture, _ in row)
    width = round(factor * max(picture.shape[1] for row in rows for _, picture, _ in row))
    columns = max(map(len, rows))
    heading = f"training{origin(bool(metadata.get('synthetic')))}, seed {cfg.train.seed}: {_what(cfg, names)}"
    strips = [text_block(heading, GAP + columns * (width + GAP))]
    for row in rows:
        height = max(1, round(factor * max(picture.shape[0] for _, picture, _ in row)))
        cells = [_cell(*one, class_names, factor, (height, width)) for one in row]
        strips.append(_padded(grid([cells]), strips[0].shape[1]))
    sheet = np.vstack(strips)
    path = Path(output) if Path(output).suffix.lower() == ".png" else Path(output) / "augmented.png"
    return [save_png(path, np.vstack([sheet, legend(sorted(classes), class_names, sheet.shape[1])]))]


def _with_preset(cfg: DictConfig, name: str) -> DictConfig:
    cfg = copy.deepcopy(cfg)
    cfg.data.augment = name
    choose_augmentations(cfg, asked=True)
    return cfg


def _loader(cfg: DictConfig) -> TrainLoader:
    loader = build(cfg.dataloader.train, "dataloader.train")
    if not isinstance(loader, TrainLoader):
        raise UserError(
            f"dataloader.train is a {type(loader).__name__}: expected the one of "
            "loradet.datasets.loader.build_train_loader, whose samples can be drawn one by one."
        )
    check_images(cfg, "train", loader.records)
    return loader


def _samples(loader: TrainLoader, count: int) -> Iterator[dict[str, Any]]:
    """The first ones of the stream."""
    keys = [key for batch, _ in zip(loader.stream, range(count)) for key in batch]
    yield from (_whole(loader.dataset[key]) for key in keys[:count])


def _draws(loader: TrainLoader, count: int) -> Iterator[dict[str, Any]]:
    """The first image of the stream, drawn several times."""
    position, index = next(iter(loader.stream))[0]
    yield from (_whole(loader.dataset[position + number, index]) for number in range(count))


def _whole(sample: dict[str, Any] | FailedSample) -> dict[str, Any]:
    if isinstance(sample, FailedSample):
        raise SampleError(sample.message)
    return sample


def _boxes(sample: dict[str, Any]) -> LabelledBoxes:
    instances = sample["instances"]
    return LabelledBoxes(instances.gt_boxes.tensor.numpy(), instances.gt_classes.numpy())


def _picture(sample: dict[str, Any], image_format: str) -> np.ndarray:
    """What the model is given, for the eye: (H, W, 3), RGB uint8."""
    image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), image_format)
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8))


def _cell(
    title: str,
    picture: np.ndarray,
    boxes: LabelledBoxes,
    class_names: list[str],
    factor: float,
    size: tuple[int, int],
) -> Cell:
    """The painted picture, enlarged by a factor, in the upper left corner of a cell of a size (height, width)."""
    painted = paint_boxes(*enlarge(picture, boxes, factor), class_names)[: size[0], : size[1]]
    canvas = np.full((*size, 3), 255, np.uint8)
    canvas[: painted.shape[0], : painted.shape[1]] = painted
    return Cell(title, canvas, f" {picture.shape[1]}x{picture.shape[0]}")


def _padded(strip: np.ndarray, width: int) -> np.ndarray:
    return np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0)), constant_values=255)


def _what(cfg: DictConfig, names: Sequence[str]) -> str:
    if names:
        return f"draws of one image by presets of {KEY}"
    chosen = (cfg.get("data") or {}).get("augment")
    return f"{KEY}={chosen}" if chosen else "the config's augmentations"
