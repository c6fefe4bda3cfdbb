"""What `train.compile` makes of a training step."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from loradet.benchmarks.gpu.measuring import E0002, free_memory, pairs_in_time, retinanet, square_batches, warm_step
from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.training_step import TrainingStep
from loradet.benchmarks.turns import interleave, ratio_figures, wait_for_device


def compiled(bench: Bench) -> Iterator[dict[str, Any]]:
    """E0002 with its backbone compiled; `ratio` is the plain step's time over the compiled one's, in turn."""
    sizes, batches = bench.sizes, square_batches(bench.sizes)
    free_memory()
    torch.manual_seed(0)
    step = TrainingStep(retinanet(bench, E0002, "train.compile.enabled=True"), loader=())
    begin = time.perf_counter()
    step.run_on(batches[0])
    wait_for_device()
    yield {"case": "E0002, first step", "seconds": time.perf_counter() - begin, "note": "most of it compiles"}
    _, peak = warm_step(step, batches, sizes)
    eager = TrainingStep(retinanet(bench, E0002), loader=())
    seconds, _ = warm_step(eager, batches, sizes)
    pairs = pairs_in_time(sizes, 2 * seconds)
    times = interleave(eager.run_on, step.run_on, batches, pairs=pairs, warmup=1)
    median = statistics.median(times[1])
    figures = {"images/s": step.images / median, "seconds": median, "peak MiB": peak}
    ratio = {"ratio": ratio_figures(*times)["median_ratio"], "to": "not compiled, times as fast"}
    yield {"case": "E0002 compiled", **figures, **ratio, "pairs": pairs}
