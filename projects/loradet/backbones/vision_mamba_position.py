"""Position embeddings and rotary angles of tokens, for grids of any size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loradet.errors import UserError

ROTARY_BASE = 10000.0


def resize_position_embedding(embedding: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bicubic interpolation (corners not aligned, no antialiasing) of an embedding of one row a token.

    Args:
        embedding: (1, h·w, C), row by row, of the grid `source` (h, w).
        target: grid wanted.

    Returns:
        (1, h'·w', C) of the same type; `embedding` itself where the grids are equal.
    """
    if source == target:
        return embedding
    grid = embedding.transpose(1, 2).unflatten(2, source)
    dtype = torch.promote_types(embedding.dtype, torch.float32)
    grid = F.interpolate(grid.to(dtype), size=target, mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2).to(embedding.dtype)


class RotaryEmbedding2D(nn.Module):
    """Turns pairs of neighbouring channels by angles that grow with a token's row and column.

    The first half of the channels turns with the row, the second with the column (Su et al., "RoFormer",
    arXiv:2104.09864, along each axis). Positions are scaled so that every grid spans `trained_edge` of them.

    Args:
        dim: C, a multiple of 4.
        grid: rows and columns of the tables that are kept, `freqs_cos` and `freqs_sin` (h·w, C).
        trained_edge: edge of the grid that the angles are made for.
    """

    def __init__(self, *, dim: int, grid: tuple[int, int], trained_edge: int):
        super().__init__()
        if dim % 4:
            raise UserError(f"rotary embedding of {dim} channels: expected a multiple of 4.")
        self.dim, self.grid, self.trained_edge = dim, grid, trained_edge
        cos, sin = self._tables(grid, torch.device("cpu"))
        self.register_buffer("freqs_cos", cos)
        self.register_buffer("freqs_sin", sin)

    def tables(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines (h·w, C) for a grid."""
        return (self.freqs_cos, self.freqs_sin) if grid == self.grid else self._tables(grid, self.freqs_cos.device)

    def forward(self, tokens: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """(B, h·w, C) turned by what `tables` gave for the grid; same shape and type."""
        cos, sin = tables
        even, odd = tokens.unflatten(2, (-1, 2)).unbind(3)
        turned = torch.stack((-odd, even), 3).flatten(2)
        return (tokens * cos + turned * sin).to(tokens.dtype)

    def _tables(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        half = self.dim // 2
        speeds = ROTARY_BASE ** -(torch.arange(0, half, 2, device=device).float() / half)
        rows, columns = (
            torch.outer(torch.arange(edge, device=device) / edge * self.trained_edge, speeds).repeat_interleave(2, 1)
            for edge in grid
        )
        angles = torch.cat(
            (rows.unsqueeze(1).expand(-1, grid[1], -1), columns.unsqueeze(0).expand(grid[0], -1, -1)), 2
        ).flatten(0, 1)
        return angles.cos(), angles.sin()
