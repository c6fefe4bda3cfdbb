"""Mona: small filters of several sizes behind attention and MLP of a frozen block.

Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks", CVPR 2025
(arXiv:2408.08345), section 3.2.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradet.adapters.variants.block_injection import ALL, adapt_blocks
from loradet.adapters.variants.blocks import AdaptedBlock
from loradet.adapters.variants.bottleneck import Bottleneck
from loradet.adapters.variants.grid import Grid

FILTERS = (3, 5, 7)


def mona(module: nn.Module, rank: int, targets: Sequence[str] = ALL, dropout: float = 0.1) -> nn.Module:
    """Add Mona to the blocks of a timm network, in place.

    In blocks of ViT, EVA (DINOv3's ViTs among them) and Swin there is one behind the attention and one behind the MLP,
    each after the sum with the residual; in those of ConvNeXt there is one at the end. Of a ViT's tokens those of
    patches alone go through it; class and register tokens pass by. At first outputs are those of the base, bit for
    bit. Layers keep their state-dict keys; keys with `mona1`, `mona2` or `mona` in them come besides. What of the base
    trains stays as it is: see `freeze`. The weights cannot be merged.

    Args:
        module: holds the network; frozen by `freeze` or not.
        rank: channels between the projections, 64 in the paper.
        targets: which blocks: names of modules, as of `lora`, each with all blocks in it. Default: all blocks.
        dropout: probability of dropping an element before the up projection while training.

    Returns:
        The module itself.

    Raises:
        ValueError: a target names nothing or nothing with a block that is supported, or rank or dropout is out of
            range. Nothing has been changed then.
    """
    return adapt_blocks(module, "mona", targets, rank=rank, alpha=float(rank), dropout=dropout)


class Mona(Bottleneck):
    """up(drop(GELU(mix(filters(down(s1 · LayerNorm(x) + s2 · x)))))) of maps (N, H, W, C).

    `filters` is the mean of depthwise 3×3, 5×5 and 7×7 filters with a residual, `mix` a 1×1 convolution with one.
    Parameters: (2R + 3) C + R² + 84 R + 2.
    """

    norm_weight: nn.Parameter
    norm_bias: nn.Parameter
    norm_scale: nn.Parameter
    input_scale: nn.Parameter
    mix_weight: nn.Parameter

    @staticmethod
    def shapes(channels: int, rank: int) -> dict[str, tuple[int, ...]]:
        filters = {f"filter{size}_weight": (rank, size, size) for size in FILTERS}
        norm = {"norm_weight": (channels,), "norm_bias": (channels,), "norm_scale": (), "input_scale": ()}
        return {**norm, **Bottleneck.shapes(channels, rank), **filters, "mix_weight": (rank, rank)}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As `Bottleneck`; the input passes the norm as it is, but for a millionth of its normed self."""
        super().reset_parameters()
        for name, value in {"norm_weight": 1.0, "norm_scale": 1e-6, "input_scale": 1.0}.items():
            nn.init.constant_(getattr(self, name), value)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to x.

        Args:
            x: (N, H, W, C).
        """
        scale = self.norm_scale
        normed = F.layer_norm(x, (self.channels,), self.norm_weight * scale, self.norm_bias * scale)
        hidden = F.linear(torch.addcmul(normed, x, self.input_scale), self.down_weight, self.down_bias)
        hidden = self._filter(hidden.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        hidden = F.gelu(hidden + F.linear(hidden, self.mix_weight))
        if self.dropout and self.training:
            hidden = F.dropout(hidden, self.dropout)
        return F.linear(hidden, self.up_weight, self.up_bias).to(x.dtype)

    def _filter(self, x: Tensor) -> Tensor:
        """The mean of the three filters, and the residual, of maps (N, R, H, W)."""
        weights = [getattr(self, f"filter{size}_weight")[:, None] for size in FILTERS]
        channels, largest = len(self.down_bias), FILTERS[-1]
        if torch.onnx.is_in_onnx_export():  # where a kernel has to be a weight, not computed from some
            filtered = [F.conv2d(x, w, padding=size // 2, groups=channels) for w, size in zip(weights, FILTERS)]
            return x + torch.stack(filtered).mean(0)
        padded = [F.pad(weight, [(largest - size) // 2] * 4) for weight, size in zip(weights, FILTERS)]
        identity = torch.zeros_like(padded[-1])
        identity[..., largest // 2, largest // 2] = 1.0
        return F.conv2d(x, torch.stack(padded).mean(0) + identity, padding=largest // 2, groups=channels)


class MonaBlock(AdaptedBlock):
    """A block of timm with Mona behind attention and MLP, or at its end."""

    variant = "mona"
    unmergeable = "Mona"
    module_class = Mona
    own_names = ("mona1", "mona2")
    grid: Grid | None

    def _after_attention(self, x: Tensor, entered: Tensor) -> Tensor:
        return self._with_mona(cast(Mona, self.mona1), x, entered)

    def _after_mlp(self, x: Tensor, normed: Tensor, entered: Tensor) -> Tensor:
        del normed
        return self._with_mona(cast(Mona, getattr(self, self.own_names[-1])), x, entered)

    def _with_mona(self, mona: Mona, x: Tensor, entered: Tensor) -> Tensor:
        """x and what Mona adds to it; (N, L, C) tokens, or (N, H, W, C)."""
        if self.grid is None:
            return x + mona(x)
        rows, columns = self.grid.size_of(entered)
        prefix = self.grid.prefix
        delta = mona(x[:, prefix:].unflatten(1, (rows, columns))).flatten(1, 2)
        return torch.cat((x[:, :prefix], x[:, prefix:] + delta), dim=1) if prefix else x + delta
