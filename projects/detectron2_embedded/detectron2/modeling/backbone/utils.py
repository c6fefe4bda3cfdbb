"""What vision transformers for detection share: windows, positions, patches."""

import math

import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "PatchEmbed",
    "add_decomposed_rel_pos",
    "get_abs_pos",
    "get_rel_pos",
    "window_partition",
    "window_unpartition",
]


def window_partition(x: torch.Tensor, window_size: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """Cut maps into square windows that do not overlap, padding with zeros at the right and the bottom.

    Args:
        x: (N, H, W, C).
        window_size: side s of a window.

    Returns:
        Windows (N * num_windows, s, s, C), row by row in each map; and the padded (height, width).
    """
    height, width = x.shape[1:3]
    pad_bottom, pad_right = -height % window_size, -width % window_size
    x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
    grid = x.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size))
    windows = grid.transpose(2, 3).flatten(0, 2)
    return windows, (height + pad_bottom, width + pad_right)


def window_unpartition(
    windows: torch.Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]
) -> torch.Tensor:
    """Put the windows of `window_partition` together again, without the padding.

    Args:
        windows: (N * num_windows, s, s, C).
        window_size: s.
        pad_hw: padded (height, width).
        hw: (height, width) before padding.

    Returns:
        (N, H, W, C).
    """
    rows, columns = (side // window_size for side in pad_hw)
    grid = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    whole = grid.flatten(3, 4).flatten(1, 2)
    return whole[:, : hw[0], : hw[1]].contiguous()


def get_rel_pos(q_size: int, k_size: int, rel_pos: torch.Tensor) -> torch.Tensor:
    """The embedding of each pair's distance along one axis.

    Args:
        q_size: positions of the queries.
        k_size: positions of the keys. The shorter axis is stretched to the longer one.
        rel_pos: (L, C), a row per distance from the most negative to the most positive; resized linearly where
            L is not 2 * max(q_size, k_size) - 1.

    Returns:
        (q_size, k_size, C).
    """
    num_distances = 2 * max(q_size, k_size) - 1
    if len(rel_pos) != num_distances:
        rel_pos = F.interpolate(rel_pos.t()[None], size=num_distances, mode="linear")[0].t()
    q_stretch, k_stretch = max(k_size / q_size, 1.0), max(q_size / k_size, 1.0)
    q = torch.arange(q_size, device=rel_pos.device)[:, None] * q_stretch
    k = torch.arange(k_size, device=rel_pos.device)[None, :] * k_stretch
    distance = q - k + (k_size - 1) * k_stretch
    return rel_pos[distance.long()]


def _decomposed_rel_pos(
    q: torch.Tensor,
    rel_pos_h: torch.Tensor,
    rel_pos_w: torch.Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> torch.Tensor:
    """What relative positions add to the attention logits: (B, q_h * q_w, k_h * k_w)."""
    by_row = get_rel_pos(q_size[0], k_size[0], rel_pos_h)
    by_column = get_rel_pos(q_size[1], k_size[1], rel_pos_w)
    grid = q.unflatten(1, q_size)
    height = torch.einsum("bhwc,hkc->bhwk", grid, by_row)
    width = torch.einsum("bhwc,wkc->bhwk", grid, by_column)
    return (height[..., :, None] + width[..., None, :]).flatten(3, 4).flatten(1, 2)


def add_decomposed_rel_pos(
    attn: torch.Tensor,
    q: torch.Tensor,
    rel_pos_h: torch.Tensor,
    rel_pos_w: torch.Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> torch.Tensor:
    """Add relative positions, one embedding for rows and one for columns, to attention logits.

    https://arxiv.org/abs/2112.01526, equation (4).

    Args:
        attn: logits (B, q_h * q_w, k_h * k_w).
        q: queries (B, q_h * q_w, C), not scaled.
        rel_pos_h, rel_pos_w: see `get_rel_pos`.
        q_size, k_size: (height, width).

    Returns:
        Logits of the same shape.
    """
    return attn + _decomposed_rel_pos(q, rel_pos_h, rel_pos_w, q_size, k_size)


def get_abs_pos(abs_pos: torch.Tensor, has_cls_token: bool, hw: tuple[int, int]) -> torch.Tensor:
    """Absolute positions for a map of any size, resized by bicubic interpolation.

    Args:
        abs_pos: (1, L, C) of a square grid; where `has_cls_token`, the first is that of the class token and is
            left out.
        has_cls_token: see above.
        hw: (height, width) wanted.

    Returns:
        (1, height, width, C).

    Raises:
        AssertionError: the positions do not form a square.
    """
    grid = abs_pos[:, 1:] if has_cls_token else abs_pos
    side = math.isqrt(grid.shape[1])
    assert side * side == grid.shape[1], (
        f"Absolute positions are those of a square grid; there are {grid.shape[1]}"
        f"{' besides the class token' if has_cls_token else ''}."
    )
    grid = grid.unflatten(1, (side, side))
    if (side, side) == tuple(hw):
        return grid
    resized = F.interpolate(grid.permute(0, 3, 1, 2), size=tuple(hw), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """A convolution that turns each patch of an image into a vector."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, in_chans, H, W) to (N, H / stride, W / stride, embed_dim)."""
        return self.proj(x).permute(0, 2, 3, 1)
