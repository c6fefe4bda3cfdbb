"""Rows and columns of a ViT's patches, which its blocks are not told: they get a row of tokens."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from loradet.adapters.lean.source import is_traced
from loradet.errors import UserError

# Of the tokens that a block was given. Gradient checkpointing gives it the same ones again, maybe after other images.
_SIZES = WeakTensorKeyDictionary()


class Grid:
    """What a ViT's patch embedding makes of its latest images; the network's blocks share it.

    Attributes:
        size: rows and columns of patches.
        prefix: how many tokens come before those of the patches.
    """

    def __init__(self, prefix: int):
        self.prefix = prefix
        self.size: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # After an export the size is a symbol, which cannot be copied; the next images bring a new one anyway.
        return {"prefix": self.prefix, "size": None}

    @classmethod
    def of_network(cls, network: nn.Module) -> "Grid":
        """The grid of a network with `patch_embed` and `num_prefix_tokens`; one for each network."""
        embed = cast(nn.Module, network.patch_embed)
        for hook in embed._forward_hooks.values():
            if isinstance(grid := getattr(hook, "__self__", None), cls):
                return grid
        grid = cls(int(cast(int, network.num_prefix_tokens)))
        embed.register_forward_hook(grid._note)
        return grid

    def _note(self, embed: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output  # which is a map or a row of tokens
        height, width = inputs[0].shape[-2:]
        rows, columns = embed.dynamic_feat_size((height, width))
        self.size = (rows, columns)

    def size_of(self, tokens: Tensor) -> tuple[int, int]:
        """Rows and columns of a block's tokens (N, L, C).

        Raises:
            UserError: there are not as many tokens as the images have patches.
        """
        size = self.size if is_traced() else _SIZES.get(tokens, self.size)
        count = tokens.shape[1] - self.prefix
        if size is None or size[0] * size[1] != count:
            made = "no image has been seen" if size is None else f"its images have {size[0]}×{size[1]} patches"
            raise UserError(
                f"Mona: a block was given {count} tokens of patches, but {made}: call the network as a whole, without "
                "patch dropout or merging of tokens."
            )
        if torch.is_grad_enabled() and not is_traced():
            _SIZES[tokens] = size
        return size
