"""Sine and cosine position embeddings."""

import math

import torch
from torch import nn

from loradet.errors import UserError


class PositionEmbeddingSine(nn.Module):
    """The fixed embedding of "Attention Is All You Need" (https://arxiv.org/abs/1706.03762), in two dimensions.

    A position p, counted in cells that are no padding and from 1, gives sin(p / T^(2k / F)) and cos(p / T^(2k / F)) in
    turn, for k = 0 … F / 2 - 1. The F channels of y come first, those of x after them.
    """

    def __init__(
        self,
        *,
        num_pos_feats: int = 128,
        temperature: float = 10000.0,
        normalize: bool = True,
        scale: float = 2 * math.pi,
    ) -> None:
        """
        Args:
            num_pos_feats: F, channels for each of y and x: half of the transformer's `hidden_dim`.
            temperature: T.
            normalize: divide positions by the image's last one and multiply by `scale`, so that images of all sizes
                span the same range.
            scale: see `normalize`.

        Raises:
            ValueError: F is odd.
        """
        super().__init__()
        if num_pos_feats < 2 or num_pos_feats % 2:
            raise UserError(f"num_pos_feats={num_pos_feats}: an even number is expected, a sine and a cosine each.")
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.normalize = normalize
        self.scale = scale

    def forward(self, padding: torch.Tensor) -> torch.Tensor:
        """
        Args:
            padding: (N, h, w), True where a cell is padding.

        Returns:
            (N, 2 * num_pos_feats, h, w), float32.
        """
        valid = (~padding).to(torch.float32)
        channels = [self._encode(valid.cumsum(axis), axis) for axis in (1, 2)]
        return torch.cat(channels, dim=-1).permute(0, 3, 1, 2)

    def _encode(self, position: torch.Tensor, axis: int) -> torch.Tensor:
        """Positions (N, h, w) along an axis to (N, h, w, num_pos_feats)."""
        if self.normalize:
            last = position.narrow(axis, position.shape[axis] - 1, 1)
            position = position / (last + 1e-6) * self.scale
        even = torch.arange(0, self.num_pos_feats, 2, dtype=torch.float32, device=position.device)
        angle = position[..., None] / self.temperature ** (even / self.num_pos_feats)
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)

    def extra_repr(self) -> str:
        return f"num_pos_feats={self.num_pos_feats}, temperature={self.temperature}, normalize={self.normalize}"
