"""AdaptFormer: a bottleneck in parallel to the MLP of a frozen block (Chen et al., NeurIPS 2022, arXiv:2205.13535).

x' + MLP(LN(x')) + s · up(ReLU(down(LN(x')))), equations 2 and 3 there.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from loradet.adapters.variants.block_injection import ALL, adapt_blocks
from loradet.adapters.variants.blocks import AdaptedBlock
from loradet.adapters.variants.bottleneck import Bottleneck
from loradet.errors import UserError


def adaptformer(
    module: nn.Module, rank: int, targets: Sequence[str] = ALL, scale: float = 0.1, dropout: float = 0.0
) -> nn.Module:
    """Add AdaptFormer to the blocks of a timm network (ViT, EVA, Swin, ConvNeXt), in place.

    Beside the MLP of each block there is a bottleneck that reads what the MLP reads; what it gives is added to the
    block's output, past layer scale and drop-path. At first outputs are those of the base, bit for bit. Layers keep
    their state-dict keys; keys with `adaptformer` in them come besides. What of the base trains stays as it is: see
    `freeze`. The weights cannot be merged.

    Args:
        module: holds the network; frozen by `freeze` or not.
        rank: channels between the projections, 64 in the paper.
        targets: which blocks: names of modules, as of `lora`, each with all blocks in it. Default: all blocks.
        scale: s, which the bottleneck's output is multiplied by.
        dropout: probability of dropping an element before the up projection while training.

    Returns:
        The module itself.

    Raises:
        ValueError: a target names nothing or nothing with a block that is supported, or rank, scale or dropout is out
            of range. Nothing has been changed then.
    """
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UserError(f"adaptformer: scale={scale!r}; expected a number above 0, for example scale=0.1.")
    return adapt_blocks(module, "adaptformer", targets, rank=rank, alpha=float(scale * rank), dropout=dropout)


class AdaptFormer(Bottleneck):
    """up(drop(ReLU(down(x)))) of (..., C). Parameters: 2 R C + R + C."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) → (..., C)."""
        hidden = F.relu(F.linear(x, self.down_weight, self.down_bias))
        if self.dropout and self.training:
            hidden = F.dropout(hidden, self.dropout)
        return F.linear(hidden, self.up_weight, self.up_bias)


class AdaptFormerBlock(AdaptedBlock):
    """A block of timm with AdaptFormer beside its MLP."""

    variant = "adaptformer"
    unmergeable = "AdaptFormer"
    module_class = AdaptFormer
    own_names = ("adaptformer",)

    def _after_mlp(self, x: Tensor, normed: Tensor, entered: Tensor) -> Tensor:
        del entered
        delta = cast(AdaptFormer, self.adaptformer)(normed) * (self.alpha / self.rank)
        return x + delta.to(x.dtype)
