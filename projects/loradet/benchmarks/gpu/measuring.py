"""What the sections share: configs of the studies with random weights, steps for a while, and their figures."""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.gpu.sizes import Sizes
from loradet.benchmarks.memory import forget_peak, peak_mb
from loradet.benchmarks.training_step import Batch, RandomImages, TrainingStep
from loradet.benchmarks.turns import wait_for_device
from loradet.config import load_config
from loradet.config.device import choose_device

OBJECTS = 10  # in every image
_BATCHES = 2  # that steps take in turn
# The study's configs by their adaptation, each with the key of its backbone.
STUDY = "sar_lora_dino"
BOTTOM_UP = "model.backbone.bottom_up"
E0002 = (f"{STUDY}/e0002_lora_r16_fc1fc2.py", f"{BOTTOM_UP}.module.module")
E0003 = (f"{STUDY}/e0003_linear_probe.py", f"{BOTTOM_UP}.module")
E0019 = (f"{STUDY}/e0019_full.py", BOTTOM_UP)


def retinanet(bench: Bench, experiment: tuple[str, str], *overrides: str) -> DictConfig:
    """The config of an experiment of the SAR-LoRA-DINO study with random weights, as of `load_random`.

    Args:
        bench: whose sizes and device it gets.
        experiment: `E0002`, `E0003` or `E0019`.
        overrides: besides.
    """
    file, backbone = experiment
    sizes = bench.sizes
    words = [
        f"data.image_size={sizes.image}",
        f"dataloader.train.total_batch_size={sizes.batch}",
        f"train.max_batch_per_gpu={sizes.batch}",
        f"{backbone}.pretrained=False",
    ]
    words += [] if sizes.convnext is None else [f"{backbone}.model_name={sizes.convnext}"]
    return load_random(bench, file, [*words, *sizes.retinanet, *overrides])


def load_random(bench: Bench, file: str, overrides: Sequence[str]) -> DictConfig:
    """A config for the device: in bf16 on CUDA, in float32 on the CPU."""
    cfg = load_config(file, [f"train.device={bench.device}", "train.amp.dtype=bf16", *overrides])
    cfg.train.amp.enabled = choose_device(bench.device).type == "cuda"
    return cfg


def random_batches(images: RandomImages, count: int) -> list[Batch]:
    """A few batches of so many images, on the host as a loader gives them."""
    return list(itertools.islice(images.loader(count), _BATCHES))


def square_batches(sizes: Sizes) -> list[Batch]:
    """Those of RetinaNet."""
    return random_batches(RandomImages(sizes.image, sizes.image, OBJECTS), sizes.batch)


def free_memory() -> None:
    """Let go of what the last measurement held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def timed(run: Callable[[], Any], sizes: Sizes, *, seconds: float | None = None) -> list[float]:
    """Seconds of each call, the device waited for: as many as `sizes` allows, at least two.

    Args:
        run: one step.
        sizes: says how many, how long and after how many calls that do not count.
        seconds: in place of that of `sizes`.
    """
    limit = sizes.seconds if seconds is None else seconds
    for _ in range(sizes.warmup):
        run()
    wait_for_device()
    took: list[float] = []
    while len(took) < 2 or (len(took) < sizes.pairs and sum(took) < limit):
        begin = time.perf_counter()
        run()
        wait_for_device()
        took.append(time.perf_counter() - begin)
    return took


def pairs_in_time(sizes: Sizes, pair_seconds: float) -> int:
    """How many pairs of steps `sizes` leaves time for: two at least."""
    return max(2, min(sizes.pairs, int(sizes.seconds / pair_seconds)))


def warm_step(step: TrainingStep, batches: Sequence[Batch], sizes: Sizes) -> tuple[float, float]:
    """Run steps that are not counted; then the seconds of one, and the peak in MiB of two."""
    for number in range(sizes.warmup):
        step.run_on(batches[number % len(batches)])
    wait_for_device()
    forget_peak(step.trainer.device)
    begin = time.perf_counter()
    for batch in batches[:2]:
        step.run_on(batch)
    wait_for_device()
    return (time.perf_counter() - begin) / len(batches[:2]), peak_mb(step.trainer.device)


def step_tflops(step: TrainingStep, batch: Batch) -> float:
    """10^12 floating-point operations of matrix products, convolutions and attention in a step.

    What is computed a second time for backward counts a second time.
    """
    with FlopCounterMode(display=False) as counter:
        step.run_on(batch)
    return counter.get_total_flops() / 1e12


def backbone_share(step: TrainingStep, batch: Batch, sizes: Sizes, step_seconds: float) -> float:
    """Seconds of the backbone alone, forward and (where it trains) backward, over those of a whole step."""
    trainer = step.trainer
    backbone = getattr(trainer.module.backbone, "bottom_up", trainer.module.backbone)
    x = trainer.module.preprocess_image(batch).tensor

    def run() -> None:
        with torch.autocast(trainer.device.type, dtype=trainer.amp_dtype, enabled=trainer.amp_dtype is not None):
            features = list(backbone(x).values())
        if any(feature.requires_grad for feature in features):
            sum(feature.float().sum() for feature in features).backward()
        trainer.optimizer.zero_grad(set_to_none=True)

    return statistics.median(timed(run, sizes, seconds=sizes.seconds / 4)) / step_seconds
