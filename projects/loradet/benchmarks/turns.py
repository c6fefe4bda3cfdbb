"""Two sides of a benchmark that take turns, and the ratio of their times."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

PAIRS_WANTED = 50

Inputs = TypeVar("Inputs")


def interleave(
    ours: Callable[[Inputs], Any],
    theirs: Callable[[Inputs], Any],
    steps: Sequence[Inputs],
    *,
    pairs: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], list[float]]:
    """Seconds of two steps that take turns on the same inputs; which goes first alternates.

    Args:
        ours, theirs: run a step on the inputs given to them, as the images of a training step.
        steps: inputs of each step, taken in turn.
        pairs: measured pairs.
        warmup: pairs before those.
        clock: seconds at present.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(warmup + pairs):
        for side in (0, 1) if number % 2 else (1, 0):
            begin = clock()
            (ours, theirs)[side](steps[number % len(steps)])
            wait_for_device()
            if number >= warmup:
                seconds[side].append(clock() - begin)
    return seconds


def wait_for_device() -> None:
    """Let CUDA finish what was started."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio_figures(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """The median over pairs of seconds over seconds, with its quartiles, and how many pairs in how many threads."""
    ratios = [a / b for a, b in zip(above, below)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "median_ratio": statistics.median(ratios),
        "ratio_lower_quartile": low,
        "ratio_upper_quartile": high,
        "pairs": len(ratios),
        "enough_pairs": len(ratios) >= PAIRS_WANTED,
        "threads": torch.get_num_threads(),
    }
