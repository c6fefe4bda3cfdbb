"""Measures samples a second of the project's mapper against Detectron2's on the same files, in interleaved pairs."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.datasets.mapper import DetectionMapper

MOST_DIFFERENT = 0.005  # of the values of a sample, by one level


@dataclass(frozen=True)
class Kind:
    """Painted files of a kind.

    Attributes:
        size: (height, width) in pixels.
        suffix: of the files.
        smoothness: how fast the amplitude of waves falls with their frequency: frequency ** -smoothness.
        quality: of JPEG.
    """

    size: tuple[int, int]
    suffix: str
    smoothness: float
    quality: int = 0


KINDS = {
    "jpeg": Kind((1500, 2000), "jpg", 1.6, 92),  # about 0.15 MB a megapixel
    "fine-jpeg": Kind((1500, 2000), "jpg", 1.5, 99),  # about 0.5
    "small-jpeg": Kind((480, 640), "jpg", 1.5, 85),
    "png": Kind((480, 640), "png", 1.6),
}


def benchmark_pixels(kind: str, *, short_edge: int = 800, files: int = 3, pairs: int = 50) -> dict[str, Any]:
    """Time both mappers in turn on one core, after their samples were found to be the same.

    Both resize to a shorter edge and flip, as in training, with the same draws and seven boxes an image.

    Args:
        kind: one of `KINDS`.
        short_edge: pixels after resizing; the longer edge has 5/3 of it at most.
        files: how many are painted; they are read in turn.
        pairs: measured pairs of samples.

    Returns:
        median samples a CPU second of both, MB a megapixel of the files, the share of values that differ by a level,
        and the median of the pairs' ratios (seconds of Detectron2's over ours) with its quartiles.

    Raises:
        RuntimeError: boxes differ, or pixels by more than a level or in more than `MOST_DIFFERENT` of the values.
    """
    augmentations = [T.ResizeShortestEdge(short_edge, round(short_edge * 5 / 3)), T.RandomFlip()]
    options = {"is_train": True, "augmentations": augmentations, "image_format": "RGB"}
    ours, theirs = DetectionMapper(**options), DatasetMapper(**options)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        records = [_paint(KINDS[kind], Path(folder), number) for number in range(files)]
        size = sum(Path(record["file_name"]).stat().st_size for record in records)
        differing = max(_check(ours, theirs, record, seed) for record in records for seed in range(4))
        our_s, their_s = interleave(
            _seeded(ours), _seeded(theirs), records, pairs=pairs, warmup=2, clock=time.process_time
        )
        figures = ratio_figures(their_s, our_s)
    height, width = KINDS[kind].size
    return {
        "image": f"{width}x{height} {KINDS[kind].suffix}",
        "short_edge": short_edge,
        "mb_per_megapixel": size / files / height / width,
        "our_samples_per_s": 1 / statistics.median(our_s),
        "detectron2_samples_per_s": 1 / statistics.median(their_s),
        **figures,
        "values_one_level_apart": differing,
    }


def paint_scene(size: tuple[int, int], smoothness: float, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 that is as smooth as a photograph: random waves, the finer the weaker."""
    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width
    fall = np.maximum(np.hypot(rows, columns), 1)[..., None] ** smoothness
    waves = np.fft.rfft2(np.random.default_rng(seed).normal(size=(height, width, 3)), axes=(0, 1)) / fall
    waves = np.fft.irfft2(waves, size, axes=(0, 1))
    return np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)


def _paint(kind: Kind, folder: Path, number: int) -> dict[str, Any]:
    """A record of Detectron2's with a file of its own and seven random boxes."""
    height, width = kind.size
    file = folder / f"{number}.{kind.suffix}"
    options = {"quality": kind.quality} if kind.suffix == "jpg" else {}
    Image.fromarray(paint_scene(kind.size, kind.smoothness, number)).save(file, **options)
    corners = np.random.default_rng(number).uniform(0, (width, height), (7, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).tolist()
    annotations = [{"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0} for box in boxes]
    return {
        "file_name": str(file),
        "image_id": number,
        "height": height,
        "width": width,
        "annotations": annotations,
    }


def _seeded(mapper: DatasetMapper, seed: int = 0) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The mapper with draws that follow from how often it was called."""
    seeds = itertools.count(seed)

    def run(record: dict[str, Any]) -> dict[str, Any]:
        np.random.seed(next(seeds))  # which augmentations draw from
        return mapper(record)

    return run


def _check(ours: DatasetMapper, theirs: DatasetMapper, record: dict[str, Any], seed: int) -> float:
    """The share of values that differ."""
    own, other = (_seeded(mapper, seed)(record) for mapper in (ours, theirs))
    if not torch.equal(own["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor):
        raise RuntimeError(f"{record['file_name']}: the boxes differ. No time is taken.")
    distances = cv2.absdiff(own["image"].numpy(), other["image"].numpy())
    share = float((distances > 0).mean())
    if distances.max() > 1 or share > MOST_DIFFERENT:
        raise RuntimeError(
            f"{record['file_name']}: {share:.2%} of the values differ, by {distances.max()} at most; expected "
            f"{MOST_DIFFERENT:.1%} by 1. No time is taken."
        )
    return share


@contextmanager
def one_thread() -> Iterator[None]:
    """As a data process has it."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
