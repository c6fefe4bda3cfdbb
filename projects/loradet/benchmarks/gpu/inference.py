"""Inference with the LoRA layers merged into the base, and beside it."""

import copy
import statistics
from collections.abc import Iterator
from typing import Any

import torch

from loradet.adapters import merge
from loradet.benchmarks.gpu.measuring import E0002, free_memory, pairs_in_time, retinanet, square_batches, timed
from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.config.device import choose_device
from loradet.model import initial_model


def inference(bench: Bench) -> Iterator[dict[str, Any]]:
    """E0002 as evaluation runs it, in float32; `ratio` is the unmerged model's time over the merged one's, in turn."""
    sizes, batches = bench.sizes, square_batches(bench.sizes)
    free_memory()
    torch.manual_seed(0)
    unmerged = initial_model(retinanet(bench, E0002), device=choose_device(bench.device)).eval()
    merged = merge(copy.deepcopy(unmerged))
    with torch.inference_mode():
        seconds = statistics.median(timed(lambda: unmerged(batches[0]), sizes, seconds=0.0))
        pairs = pairs_in_time(sizes, 2 * seconds)
        times = interleave(unmerged, merged, batches, pairs=pairs, warmup=1)
    for case, side in zip(("E0002 unmerged", "E0002 merged"), times):
        median = statistics.median(side)
        row = {"case": case, "images/s": sizes.batch / median, "seconds": median, "pairs": pairs}
        if side is times[1]:
            row |= {"ratio": ratio_figures(*times)["median_ratio"], "to": "unmerged, times as fast"}
        yield row | {"note": "float32; random weights find nothing"}
