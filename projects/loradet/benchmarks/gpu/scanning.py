"""The selective scan on the device: the chunked one, and mamba_ssm's kernel where it is installed."""

import functools
import importlib
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from loradet.backbones.selective_scan import selective_scan
from loradet.benchmarks.gpu.measuring import free_memory, timed
from loradet.benchmarks.gpu.sections import Bench
from loradet.benchmarks.memory import forget_peak, peak_mb
from loradet.benchmarks.scan import random_inputs
from loradet.config.device import choose_device

KERNEL = "mamba_ssm"


def scan(bench: Bench) -> Iterator[dict[str, Any]]:
    """Forward, and forward with backward, of each; `ratio` is the chunked scan's time over the kernel's."""
    device = choose_device(bench.device)
    inputs = {name: x.to(device) for name, x in random_inputs(*bench.sizes.scan).items()}
    missing = _why_no_kernel(device)
    chunked: dict[bool, float] = {}
    outputs: list[Tensor] = []
    for implementation in ("chunked",) if missing else ("chunked", KERNEL):
        with torch.no_grad():
            outputs.append(_run(inputs, implementation, False))
        difference = float((outputs[-1] - outputs[0]).abs().max() / outputs[0].abs().max())
        for backward in (False, True):
            free_memory()
            forget_peak(device)
            run = functools.partial(_run, inputs, implementation, backward)
            seconds = statistics.median(timed(run, bench.sizes, seconds=bench.sizes.seconds / 4))
            row = {"case": f"{implementation}, {'forward and backward' if backward else 'forward'}", "seconds": seconds}
            if implementation == "chunked":
                chunked[backward] = seconds
            else:
                row |= {"ratio": chunked[backward] / seconds, "to": "chunked, times as fast", "difference": difference}
            yield row | {"images/s": bench.sizes.scan[0] / seconds, "peak MiB": peak_mb(device)}
    if missing:
        yield {"case": KERNEL, "note": missing}


def _why_no_kernel(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "runs on CUDA alone"
    try:
        importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except (ImportError, OSError) as error:
        return f"cannot be imported: {error}"
    return None


def _run(inputs: dict[str, Tensor], implementation: str, backward: bool) -> Tensor:
    inputs = {name: x.detach().requires_grad_(backward) for name, x in inputs.items()}
    with torch.set_grad_enabled(backward):
        y = selective_scan(**inputs, delta_softplus=True, implementation=implementation)
        assert isinstance(y, Tensor)  # no state was asked for
        if backward:
            y.sum().backward()
    return y.detach()
