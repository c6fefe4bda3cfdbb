"""Training steps: images a second, peak memory, share of the backbone, and a bare loop beside it."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from loradet.benchmarks.gpu.measuring import (
    BOTTOM_UP,
    E0002,
    E0003,
    E0019,
    OBJECTS,
    backbone_share,
    free_memory,
    load_random,
    pairs_in_time,
    random_batches,
    retinanet,
    square_batches,
    step_tflops,
    warm_step,
)
from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.gpu.sizes import Sizes
from loradet.benchmarks.training_step import Batch, RandomImages, TrainingStep
from loradet.benchmarks.turns import interleave, ratio_figures

MEMORY = ("plain", "lean", "least")


def training(bench: Bench) -> Iterator[dict[str, Any]]:
    """LoRA (E0002) in its three ways to keep memory, linear probe (E0003), full fine-tuning (E0019)."""
    batches = square_batches(bench.sizes)
    plain: dict[str, Any] = {}
    for memory in MEMORY:
        cfg = retinanet(bench, E0002, f"+{BOTTOM_UP}.memory={memory}")
        row = {"case": f"E0002 {memory}", **measure_training(cfg, batches, bench.sizes)}
        plain = plain or row
        if row is not plain:
            row |= {f"{name} to plain": row[name] / plain[name] for name in ("seconds", "peak MiB")}
        yield row
    for case, experiment in (("E0003", E0003), ("E0019", E0019)):
        yield {"case": case, **measure_training(retinanet(bench, experiment), batches, bench.sizes)}


def detr(bench: Bench) -> Iterator[dict[str, Any]]:
    """DETR on a frozen ViT-L, the crowd study's model."""
    sizes = bench.sizes
    backbone = "model.backbone.module"
    words = [
        "model.num_classes=2",
        f"data.pad_to=[{sizes.detr_image[0]},{sizes.detr_image[1]}]",
        f"dataloader.train.total_batch_size={sizes.detr_batch}",
        f"train.max_batch_per_gpu={sizes.detr_batch}",
        f"{backbone}.pretrained=False",
        *([] if sizes.vit is None else [f"{backbone}.model_name={sizes.vit}"]),
        *sizes.detr,
    ]
    batches = random_batches(RandomImages(*sizes.detr_image, OBJECTS), sizes.detr_batch)
    cfg = load_random(bench, "crowd_detr/full.py", words)
    yield {"case": f"DETR {cfg.model.backbone.module.model_name}"} | measure_training(cfg, batches, sizes)


def measure_training(cfg: DictConfig, batches: Sequence[Batch], sizes: Sizes) -> dict[str, Any]:
    """The figures of a config's training step; `ratio` is its time over that of a bare loop, in turn."""
    free_memory()
    torch.manual_seed(0)
    step = TrainingStep(cfg, loader=())
    seconds, peak = warm_step(step, batches, sizes)
    tflops = step_tflops(step, batches[0])
    pairs = pairs_in_time(sizes, 2 * seconds)
    ours, bare = interleave(step.run_on, step.run_bare, batches, pairs=pairs, warmup=1)
    median = statistics.median(ours)
    figures = ratio_figures(ours, bare)
    return {
        "images/s": step.images / median,
        "seconds": median,
        "peak MiB": peak,
        "TFLOP/s": tflops / median,
        "ratio": figures["median_ratio"],
        "to": "bare loop",
        "backbone": backbone_share(step, batches[0], sizes, median),
        "images": step.images,
        "size": f"{batches[0][0]['height']}x{batches[0][0]['width']}",
        "pairs": pairs,
    }
