"""The selective scan of Mamba, by whichever implementation serves the device."""

# ruff: noqa: N803 (A, B, C and D are the names of the papers and of the checkpoints)

import functools
import importlib
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from loradet.backbones.selective_scan_chunked import chunked_scan, default_chunk_size

logger = logging.getLogger(__name__)

IMPLEMENTATIONS = ("auto", "chunked", "mamba_ssm")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    chunk_size: int | None = None,
    implementation: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """y_t = C_t h_t + D u_t with h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, gated by silu(z).

    Algorithm 2 of Gu and Dao, "Mamba", arXiv:2312.00752; arguments as of `mamba_ssm`'s function of a like name.
    The chunked implementation computes in float32 (float64 for float64 inputs) whatever autocast says. Its memory
    beyond inputs and outputs is that of one chunk, and in training one state for each chunk.

    Args:
        u: input (B, D, L).
        delta: step sizes (B, D, L); with `delta_bias` added, and through softplus if `delta_softplus`, not negative.
        A: (D, N), not positive.
        B, C: (B, N, L); (B, G, N, L) for G groups of D / G neighbouring channels; or (D, N), the same at every step.
        D: (D,), skip connection.
        z: gate (B, D, L).
        delta_bias: (D,).
        delta_softplus: whether delta goes through softplus.
        return_last_state: whether to return h_L too.
        chunk_size: steps a chunk of the chunked scan; None chooses by size and device.
        implementation: `auto` takes `mamba_ssm` on CUDA where it is installed, else, or with a `chunk_size`, `chunked`.

    Returns:
        (B, D, L) in u's type; with `return_last_state` also the state (B, D, N), at least float32.

    Raises:
        ValueError: shapes that do not fit, a chunk size below 1, an unknown implementation, or `mamba_ssm` with a chunk
            size or for tensors that are not on CUDA.
        ImportError: `mamba_ssm` is asked for and cannot be imported.
    """
    _check(u, delta, A, B, C, chunk_size)
    if _choose(implementation, u, chunk_size) == "mamba_ssm":
        kernel = _mamba_ssm_kernel()
        if not u.is_cuda:
            raise ValueError(
                f"selective_scan: implementation='mamba_ssm' runs on CUDA alone, and the tensors are on {u.device}; "
                "use 'auto' or 'chunked' (VisionMamba: scan=auto)."
            )
        delta, z = (None if x is None else x.to(u.dtype) for x in (delta, z))
        A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))
        B, C = (x.float() if x.dim() == 2 else x.to(u.dtype) for x in (B, C))
        return kernel(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus=delta_softplus, return_last_state=return_last_state
        )
    return _chunked(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state, chunk_size)


@torch.compiler.assume_constant_result
def chosen_implementation(device_type: str) -> str:
    """What `selective_scan` runs on `cpu`, `cuda` … by default; the first call for each logs it, and why."""
    return _chosen(device_type)


@functools.cache
def _chosen(device_type: str) -> str:
    chosen, reason = "chunked", "pure PyTorch"
    if device_type == "cuda":
        try:
            _mamba_ssm_kernel()
            chosen, reason = "mamba_ssm", "its CUDA kernel is installed"
        except (ImportError, OSError) as error:
            reason = f"pure PyTorch; mamba_ssm cannot be imported: {error}"
    logger.info("selective scan on %s: %s (%s)", device_type, chosen, reason)
    return chosen


def _choose(implementation: str, u: Tensor, chunk_size: int | None) -> str:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation={implementation!r}; expected one of {', '.join(IMPLEMENTATIONS)}.")
    if implementation == "mamba_ssm" and chunk_size is not None:
        raise ValueError(
            f"selective_scan: chunk_size={chunk_size} with implementation='mamba_ssm', whose kernel has no such "
            "setting; leave chunk_size out, or use implementation='chunked'."
        )
    if implementation != "auto":
        return implementation
    if chunk_size is not None:
        return "chunked"
    chosen = chosen_implementation(u.device.type)
    return "chunked" if u.dtype == torch.float64 else chosen  # the kernel has no float64


@functools.cache
def _mamba_ssm_kernel() -> Callable:
    return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn


def _chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
    chunk_size: int | None,
) -> Tensor | tuple[Tensor, Tensor]:
    dtype = torch.promote_types(u.dtype, torch.float32)
    batch, _, length = u.shape
    B, C = (_by_step(x, u) for x in (B, C))
    groups = math.lcm(B.shape[2], C.shape[2])
    B, C = (x if x.shape[2] == groups else x.repeat_interleave(groups // x.shape[2], 2) for x in (B, C))
    step = delta.to(dtype)
    step = step if delta_bias is None else step + delta_bias.to(dtype).unsqueeze(1)
    step = F.softplus(step) if delta_softplus else step
    grouped_u, step = (x.transpose(1, 2).unflatten(2, (groups, -1)) for x in (u, step))
    A = A.to(dtype).unflatten(0, (groups, -1)).transpose(1, 2).contiguous()
    chunk_size = chunk_size or default_chunk_size(batch * A.numel(), u.device)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (u, step, A, B, C))
    y, last_state, _ = chunked_scan(grouped_u, step, A, B, C, min(chunk_size, length), keep)
    y = y.flatten(2).transpose(1, 2)
    if D is not None:
        y = torch.addcmul(y, u.to(dtype), D.to(dtype).unsqueeze(1))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    y = y.to(u.dtype)
    return (y, last_state.transpose(2, 3).flatten(1, 2)) if return_last_state else y


def _by_step(x: Tensor, u: Tensor) -> Tensor:
    """B or C as (B, L, groups, N)."""
    if x.dim() == 2:
        return x.expand(u.shape[0], u.shape[2], -1, -1)
    return x.transpose(1, 2).unsqueeze(2) if x.dim() == 3 else x.permute(0, 3, 1, 2)


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int | None) -> None:
    if u.dim() != 3 or u.shape != delta.shape or u.shape[2] < 1:
        raise ValueError(
            f"selective_scan: u {tuple(u.shape)}, delta {tuple(delta.shape)}; expected both (B, D, L), L of at least 1."
        )
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"selective_scan: A {tuple(A.shape)}; expected ({channels}, N).")
    size = A.shape[1]
    for name, x in (("B", B), ("C", C)):
        groups = x.shape[1] if x.dim() == 4 else 1
        expected = {2: (channels, size), 3: (batch, size, length), 4: (batch, groups, size, length)}.get(x.dim())
        if tuple(x.shape) != expected or channels % groups:
            raise ValueError(
                f"selective_scan: {name} {tuple(x.shape)}; expected {(batch, size, length)}, (B, G, N, L) of groups "
                f"that divide {channels} channels, or {(channels, size)}."
            )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"selective_scan: chunk_size={chunk_size}; expected at least 1.")
