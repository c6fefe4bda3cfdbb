"""Measures the chunked selective scan against a loop over the steps, in interleaved pairs."""

# ruff: noqa: N803 (A, B, C and D are the names of the papers and of the checkpoints)

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from loradet.backbones.selective_scan import selective_scan
from loradet.benchmarks.turns import interleave, ratio_figures
from loradet.evaluation.process_memory import process_peak_mb

Scan = Callable[..., Tensor]


def written_out_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
    """The formula of `selective_scan` with exp(delta A) and delta B u held for all steps, and a loop over them.

    Args:
        u, delta, z: (B, D, L); delta goes through softplus.
        A: (D, N).
        B, C: (B, N, L).
        D: (D,).

    Returns:
        (B, D, L).
    """
    delta = F.softplus(delta)
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state = torch.zeros_like(drive[:, :, 0])
    steps = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + drive[:, :, t]
        steps.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    y = torch.stack(steps, 2)
    return (y + D.unsqueeze(1) * u) * F.silu(z)


def lean_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
    """The same by a loop that holds one step's state at a time, channels innermost."""
    by_step = F.softplus(delta).permute(2, 0, 1)
    driven = (by_step * u.permute(2, 0, 1)).unsqueeze(2)
    A = A.t().contiguous()
    state = A.new_zeros(u.shape[0], *A.shape)
    steps = []
    for delta_t, driven_t, B_t, C_t in zip(by_step.unsqueeze(2), driven, B.permute(2, 0, 1), C.permute(2, 0, 1)):
        state = torch.addcmul(B_t.unsqueeze(2) * driven_t, (delta_t * A).exp(), state)
        steps.append((C_t.unsqueeze(1) @ state).squeeze(1))
    y = torch.stack(steps, 2)
    return (y + D.unsqueeze(1) * u) * F.silu(z)


def chunked_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor) -> Tensor:
    """`selective_scan` with the same arguments."""
    return selective_scan(u, delta, A, B, C, D, z, delta_softplus=True, implementation="chunked")


BASELINES: dict[str, Scan] = {"written-out": written_out_scan, "lean": lean_scan}


def random_inputs(batch: int, channels: int, state: int, length: int) -> dict[str, Tensor]:
    """Inputs of a scan, with step sizes and decays as a Mamba block has them before training."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "u": normal(batch, channels, length),
        "delta": normal(batch, channels, length) - 3,
        "A": -torch.arange(1.0, state + 1).repeat(channels, 1),
        "B": normal(batch, state, length),
        "C": normal(batch, state, length),
        "D": torch.ones(channels),
        "z": normal(batch, channels, length),
    }


def benchmark_scan(
    against: str,
    *,
    backward: bool = False,
    pairs: int = 50,
    warmup: int = 1,
    batch: int = 1,
    channels: int = 384,
    state: int = 16,
    length: int = 1600,
) -> dict[str, Any]:
    """Time both sides in turn, on this device's CPU; which goes first alternates.

    Args:
        against: a key of `BASELINES`.
        backward: forward and backward of all inputs, instead of forward without gradients.
        pairs: measured pairs.
        warmup: pairs before those.
        batch, channels, state, length: size of the scan.

    Returns:
        median seconds of both sides, the median of the pairs' ratios (baseline / chunked) with its quartiles, the
        difference of the outputs over the largest, and what the process held at most, in MiB.
    """
    inputs = random_inputs(batch, channels, state, length)
    sides = (chunked_scan, BASELINES[against])
    with torch.no_grad():
        ours, theirs = (scan(**inputs) for scan in sides)
    runs = (functools.partial(_run, scan, backward) for scan in sides)
    chunked_s, against_s = interleave(*runs, [inputs], pairs=pairs, warmup=warmup)
    return {
        "chunked_s": statistics.median(chunked_s),
        f"{against}_s": statistics.median(against_s),
        **ratio_figures(against_s, chunked_s),
        "largest_difference": ((ours - theirs).abs().max() / theirs.abs().max()).item(),
        "peak_memory_mb": process_peak_mb(),
    }


def _run(scan: Scan, backward: bool, inputs: dict[str, Tensor]) -> None:
    inputs = {name: x.detach().requires_grad_(backward) for name, x in inputs.items()}
    with torch.set_grad_enabled(backward):
        y = scan(**inputs)
        if backward:
            y.sum().backward()
