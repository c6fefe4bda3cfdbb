"""The rates of matrix products and of copies, which bound all the rest."""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from loradet.benchmarks.gpu.measuring import timed
from loradet.benchmarks.gpu.report import LIMIT_CASE
from loradet.benchmarks.gpu.sections import Bench
from loradet.config.device import choose_device


def rates(bench: Bench) -> Iterator[dict[str, Any]]:
    """Products of square matrices in bf16 and float32; copies on the device, to it and from it."""
    device, side = choose_device(bench.device), bench.sizes.matrix

    def median(run: Callable[[], Any]) -> float:
        return statistics.median(timed(run, bench.sizes, seconds=bench.sizes.seconds / 4))

    for case, dtype in ((LIMIT_CASE, torch.bfloat16), ("matmul float32", torch.float32)):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = median(functools.partial(torch.mm, a, b, out=out))
        yield {"case": case, "seconds": seconds, "TFLOP/s": 2 * side**3 / seconds / 1e12, "side": side}
    size = bench.sizes.copy_mib * 2**20
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = median(lambda: target.copy_(source))
    yield {"case": "copy", "seconds": seconds, "GB/s": 2 * size / seconds / 1e9, "note": "read and written"}
    if device.type != "cuda":
        return
    host = torch.ones(size, dtype=torch.uint8).pin_memory()
    for case, to, of in (("copy to the device", target, host), ("copy from the device", host, target)):
        seconds = median(functools.partial(to.copy_, of, non_blocking=True))
        yield {"case": case, "seconds": seconds, "GB/s": size / seconds / 1e9, "note": "pinned"}
