"""What of a training step is waiting for the loader: JPEG files, decoded, resized and flipped as in training."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from loradet.benchmarks.gpu.measuring import E0002, OBJECTS, free_memory, retinanet, timed
from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.gpu.sizes import Sizes
from loradet.benchmarks.training_step import TrainingStep, batch_plan, training_loader

CLASSES = ("ship", "aircraft", "car", "tank", "bridge", "harbor")


def loader(bench: Bench) -> Iterator[dict[str, Any]]:
    """The loader by itself, and a training (E0002) that takes its images from it."""
    sizes = bench.sizes
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), sizes)
        workers = min(sizes.workers, os.cpu_count() or 1)
        words = [
            f"data.train_json={folder}/train.json",
            f"data.train_images={folder}",
            f"dataloader.train.num_workers={workers}",
        ]
        cfg = retinanet(bench, E0002, *words)
        free_memory()
        torch.manual_seed(0)
        seconds = _seconds(iter(training_loader(cfg)), sizes)
        count = batch_plan(cfg).per_forward
        kind = f"JPEG {sizes.file_image[1]}x{sizes.file_image[0]} to {sizes.image}²"
        row = {"case": "loader alone", "images/s": count / seconds, "seconds": seconds}
        yield row | {"workers": workers, "note": kind}

        step = TrainingStep(cfg, training_loader(cfg))
        with step.trainer.stream():
            took = timed(step.run, sizes)
        waits = [value for value, _ in step.trainer.storage.history("data_time").values()[-len(took) :]]
        mean = statistics.fmean(took)
        row = {"case": "E0002 from files", "images/s": step.images / mean, "seconds": mean}
        yield row | {"share of waiting": sum(waits) / sum(took), "workers": workers}


def _seconds(stream: Iterator[Any], sizes: Sizes) -> float:
    """A batch, on the average: workers deliver theirs in bursts."""
    for _ in range(sizes.warmup):
        next(stream)
    batches, begin = 0, time.perf_counter()
    while batches < 2 or time.perf_counter() - begin < sizes.seconds:
        next(stream)
        batches += 1
    return (time.perf_counter() - begin) / batches


def write_images(folder: Path, sizes: Sizes) -> None:
    """JPEG files of smooth noise, and `train.json` in COCO's layout with boxes anywhere."""
    generator = np.random.default_rng(0)
    height, width = sizes.file_image
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number in range(sizes.files):
        noise = generator.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        name = f"{number}.jpg"
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(folder / name, quality=90)
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for _ in range(OBJECTS):
            w, h = generator.integers(20, min(height, width), 2)
            x, y = generator.integers(0, width - w + 1), generator.integers(0, height - h + 1)
            box = {"id": len(boxes) + 1, "image_id": number + 1, "category_id": len(boxes) % len(CLASSES) + 1}
            boxes.append({**box, "bbox": [int(v) for v in (x, y, w, h)], "area": int(w * h), "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
