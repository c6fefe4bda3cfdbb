"""The block of Vision Mamba: a selective state space read from both ends of the token sequence."""

# ruff: noqa: N803 (A, B, C and D are the names of the papers and of the checkpoints)

import math

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from loradet.backbones.selective_scan import IMPLEMENTATIONS, selective_scan

# Range of the initial step sizes: Gu and Dao, "Mamba", arXiv:2312.00752, section 3.6.
SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e-1


class BidirectionalMambaMixer(nn.Module):
    """Vision Mamba's mixer, "v2" (Zhu et al., arXiv:2401.09417, algorithm 1).

    Both directions share `in_proj` and `out_proj`; the backward one has a convolution, projections, A and D of its own,
    and runs on the reversed tokens and gate. All projections are called as modules, so that what wraps them acts.
    Parameter names are those of the published checkpoints.

    Args:
        dim: C, channels of a token.
        state_size: N, size of the state of each inner channel.
        conv_width: taps of the causal convolution.
        expand: inner channels over C.
        dt_rank: rank of the projection to step sizes; None takes ceil(C / 16).
        divide_out: halve the sum of the directions.
        scan: implementation, as `selective_scan` takes it.

    Raises:
        ValueError: an unknown implementation.
    """

    def __init__(
        self,
        *,
        dim: int,
        state_size: int = 16,
        conv_width: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        divide_out: bool = True,
        scan: str = "auto",
    ):
        super().__init__()
        if scan not in IMPLEMENTATIONS:
            raise ValueError(f"scan={scan!r}; expected one of {', '.join(IMPLEMENTATIONS)}.")
        inner = expand * dim
        self.state_size, self.divide_out, self.scan = state_size, divide_out, scan
        self.dt_rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        for end in ("", "_b"):
            conv = nn.Conv1d(inner, inner, conv_width, groups=inner, padding=conv_width - 1)
            setattr(self, f"conv1d{end}", conv)
            setattr(self, f"x_proj{end}", nn.Linear(inner, self.dt_rank + 2 * state_size, bias=False))
            setattr(self, f"dt_proj{end}", nn.Linear(self.dt_rank, inner))
            setattr(self, f"D{end}", nn.Parameter(torch.ones(inner)))
            setattr(self, f"A{end}_log", nn.Parameter(torch.empty(inner, state_size)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights: A = -1 … -N, step sizes log-uniform, linear layers truncated normal."""
        for layer in (self.in_proj, self.out_proj, self.x_proj, self.x_proj_b):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        for layer in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(layer.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
            with torch.no_grad():
                span = math.log(SMALLEST_STEP), math.log(LARGEST_STEP)
                step = torch.empty_like(layer.bias).uniform_(*span).exp()
                layer.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is `step`
        for log in (self.A_log, self.A_b_log):
            with torch.no_grad():
                log.copy_(torch.arange(1.0, self.state_size + 1).log().expand_as(log))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) → (B, L, C)."""
        # Channels-last views as (B, E, L): the scan reads tokens one after the other.
        x, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)
        y = self._direction(x, z, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        backward = (self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        y = y + self._direction(x.flip(2), z.flip(2), *backward).flip(2)
        return self.out_proj((y / 2 if self.divide_out else y).transpose(1, 2))

    @staticmethod
    def causal_convolution(x: Tensor, conv: nn.Module) -> Tensor:
        """(B, E, L) → (B, E, L); the convolution pads both ends, and is causal without what it adds at the far one."""
        return conv(x)[..., : x.shape[2]]

    def _direction(
        self, x: Tensor, z: Tensor, conv: nn.Module, x_proj: nn.Module, dt_proj: nn.Module, A_log: Tensor, D: Tensor
    ) -> Tensor:
        """x, z (B, E, L) → (B, E, L)."""
        tokens = F.silu(self.causal_convolution(x, conv)).transpose(1, 2).contiguous()
        dt, B, C = x_proj(tokens).split([self.dt_rank, self.state_size, self.state_size], dim=2)
        delta = dt_proj(dt)
        dtype = torch.promote_types(A_log.dtype, torch.float32)
        return selective_scan(
            tokens.transpose(1, 2),
            delta.transpose(1, 2),
            -torch.exp(A_log.to(dtype)),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D,
            z,
            delta_softplus=True,
            implementation=self.scan,
        )


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, computed in at least float32, given in weight's type.

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        x = F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps)
        return x.to(self.weight.dtype)


class VisionMambaBlock(nn.Module):
    """residual += hidden; hidden = mixer(norm(residual)), with the residual in at least float32.

    Args:
        mixer: of tokens (B, L, C).
        norm: before the mixer.
        drop_path: probability of dropping the hidden state that comes in, by sample, in train mode.
    """

    def __init__(self, *, mixer: nn.Module, norm: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.mixer, self.norm = mixer, norm
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, hidden: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden state and residual (B, L, C) of the block before, the first block's None → this block's."""
        hidden = self.drop_path(hidden)
        if residual is None:
            residual = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        else:
            residual = residual + hidden
        return self.mixer(self.norm(residual)), residual
