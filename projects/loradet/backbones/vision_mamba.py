"""Vision Mamba as a Detectron2 backbone."""

import functools
import logging
import os
import re
from collections.abc import Callable

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_again

from loradet.backbones.mamba_mixer import BidirectionalMambaMixer, RMSNorm, VisionMambaBlock
from loradet.backbones.pixels import IMAGENET_MEAN, IMAGENET_STD
from loradet.backbones.vision_mamba_position import RotaryEmbedding2D, resize_position_embedding
from loradet.backbones.vision_mamba_weights import load_vision_mamba_weights
from loradet.errors import UserError

logger = logging.getLogger(__name__)

LAST_LAYER_PROCESSES = ("add", "none")


@BACKBONE_REGISTRY.register()
class VisionMamba(Backbone):
    """Vision Mamba (Zhu et al., arXiv:2401.09417) with one output map, for `SimpleFeaturePyramid`.

    Parameters have the names of the published checkpoints: `patch_embed.proj`, `pos_embed`, `layers.0.mixer.in_proj` ….
    As in the official detection backbone there is no class token and no last norm. Unlike it, images may have any size
    and shape, the stride that is reported is the true one where patches overlap, and the last block's output is not
    lost. The defaults are ViM-Tiny; ViM-Small has `embed_dim=384`.

    Attributes:
        grid: rows and columns of `pos_embed`.
        dropped_weights: names of tensors of the checkpoint that detection does not use.

    Args:
        weights: a published checkpoint, safetensors or pth; None: random weights, said in the log.
        random_weights: older name of `train.allow_random_frozen`, and says the same there; without `weights`.
        img_size: height and width, or one edge, that `pos_embed` is kept for; other images get it resized.
        patch_size: edge of a patch in pixels.
        stride: pixels from one patch to the next, at most `patch_size`, which None takes.
        in_chans: channels of an image.
        embed_dim, depth, d_state, d_conv, expand, dt_rank: sizes; see `BidirectionalMambaMixer`.
        if_divide_out: halve the sum of both directions.
        if_rope: rotary embedding of the hidden state before each block.
        if_rope_residual: of the residual too.
        pt_hw_seq_len: edge of the grid that the rotary angles are made for.
        norm_epsilon: of all norms.
        drop_path_rate: block i's output is dropped with probability rate · i / (depth - 1) on its way into the next
            block; the last block's output never is.
        last_layer_process: "add" gives residual + last output, "none" the last output alone.
        class_token_row: see `load_vision_mamba_weights`.
        out_feature: name of the output.
        scan: implementation of the scan, see `selective_scan`.
        checkpoint: gradient checkpointing: backward runs each block again, and keeps its input alone until then.

    Raises:
        ValueError: both of `weights` and `random_weights`, an argument out of range, or a checkpoint of
            another network.
        FileNotFoundError: no such checkpoint.
    """

    pixel_mean, pixel_std = IMAGENET_MEAN, IMAGENET_STD  # of the published weights

    def __init__(
        self,
        *,
        weights: str | os.PathLike | None = None,
        random_weights: bool = False,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_chans: int = 3,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        if_divide_out: bool = True,
        if_rope: bool = False,
        if_rope_residual: bool = False,
        pt_hw_seq_len: int = 14,
        norm_epsilon: float = 1e-5,
        drop_path_rate: float = 0.0,
        last_layer_process: str = "add",
        class_token_row: str = "first",
        out_feature: str = "last_feat",
        scan: str = "auto",
        checkpoint: bool = False,
    ):
        super().__init__()
        stride = patch_size if stride is None else stride
        _check_weights(weights, random_weights)
        _check_sizes(patch_size, stride, depth)
        if last_layer_process not in LAST_LAYER_PROCESSES:
            known = ", ".join(LAST_LAYER_PROCESSES)
            raise UserError(f"VisionMamba: last_layer_process={last_layer_process!r}; expected one of {known}.")
        if if_rope_residual and not if_rope:
            raise UserError("VisionMamba: if_rope_residual=True needs if_rope=True.")
        self.patch_size, self.stride, self.last_layer_process = patch_size, stride, last_layer_process
        self.if_rope_residual, self.checkpoint = if_rope_residual, checkpoint
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = self.grid_of(height, width)

        self.patch_embed = PatchEmbedding(in_chans=in_chans, dim=embed_dim, patch_size=patch_size, stride=stride)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.rope = RotaryEmbedding2D(dim=embed_dim, grid=self.grid, trained_edge=pt_hw_seq_len) if if_rope else None
        sizes = {"state_size": d_state, "conv_width": d_conv, "expand": expand, "dt_rank": dt_rank}
        self.layers = nn.ModuleList(
            VisionMambaBlock(
                mixer=BidirectionalMambaMixer(dim=embed_dim, divide_out=if_divide_out, scan=scan, **sizes),
                norm=RMSNorm(embed_dim, eps=norm_epsilon),
                drop_path=rate,
            )
            for rate in drop_path_rates(depth, drop_path_rate)
        )
        self._out_features = [out_feature]
        self._out_feature_channels, self._out_feature_strides = {out_feature: embed_dim}, {out_feature: stride}

        self.dropped_weights: list[str] = []
        if weights is None:
            logger.warning("VisionMamba starts from random weights: weights=None. What is frozen of it stays random.")
        else:
            self.dropped_weights = load_vision_mamba_weights(self, weights, self.grid, class_token_row)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """{out_feature: (N, embed_dim, H', W')} of normalised images (N, in_chans, H, W).

        H' and W' are H and W over the stride; with overlapping patches (H - patch_size) // stride + 1. What is left at
        the right and lower border is not seen.

        Raises:
            ValueError: images smaller than a patch.
        """
        grid = self.grid_of(*x.shape[-2:])
        tokens = self.patch_embed(x)
        tokens = tokens + resize_position_embedding(self.pos_embed, self.grid, grid).to(tokens.dtype)
        hidden, residual = self.forward_tokens(tokens, grid)
        if self.last_layer_process == "add":
            hidden = residual + hidden
        return {self._out_features[0]: hidden.transpose(1, 2).unflatten(2, grid).contiguous()}

    def forward_tokens(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, C) with positions through all blocks: the last hidden state, and the residual without it."""
        hidden, residual = tokens, None
        tables = None if self.rope is None else self.rope.tables(grid)
        for layer in self.layers:
            run = functools.partial(run_again, layer, use_reentrant=False) if self.checkpoint else layer
            if tables is not None:
                hidden = self.rope(hidden, tables)
                if residual is not None and self.if_rope_residual:
                    residual = self.rope(residual, tables)
            hidden, residual = run(hidden, residual)
        return hidden, residual

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the tokens of an image of this size in pixels."""
        if min(height, width) < self.patch_size:
            raise UserError(f"VisionMamba: an image of {height}×{width} is smaller than a {self.patch_size} px patch.")
        return tuple((edge - self.patch_size) // self.stride + 1 for edge in (height, width))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }

    def no_weight_decay(self) -> set[str]:
        """Parameters that the official recipes train without weight decay: positions, and A and D of the scans."""
        recurrent = {"A_log", "A_b_log", "D", "D_b"}
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if name == "pos_embed" or name.rpartition(".")[2] in recurrent}

    @property
    def size_divisibility(self) -> int:
        """The stride: no pixel is left out where the patch size is a multiple of it."""
        return self.stride


class PatchEmbedding(nn.Module):
    """Patches of an image as tokens, row by row."""

    def __init__(self, *, in_chans: int, dim: int, patch_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) → (N, H'·W', dim)."""
        return self.proj(x).flatten(2).transpose(1, 2)


def drop_path_rates(depth: int, rate: float) -> list[float]:
    """Of each block, for the hidden state that comes into it: what it gets is the output of the block before."""
    return [0.0, *(rate * i / max(depth - 1, 1) for i in range(depth - 1))]


def get_vim_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 24) -> float:
    """Factor on the learning rate of a parameter: each block below the top multiplies it by `lr_decay_rate`.

    The counterpart of Detectron2's `get_vit_lr_decay_rate`; the last block is one below the top, and position embedding
    and patch embedding lie below the first. What is not of `backbone`'s Vision Mamba keeps the full rate.

    Args:
        name: of the parameter in the detector, such as `backbone.net.layers.3.norm.weight`.
        lr_decay_rate: factor per block.
        num_layers: number of blocks.
    """
    found = re.match(r"backbone\.(?:.+\.)?(?:(?:pos_embed$|patch_embed\.)|layers\.(\d+)\.)", name)
    if not found:
        return 1.0
    below = num_layers + 1 if found.group(1) is None else num_layers - int(found.group(1))
    return lr_decay_rate**below


def vim_lr_factors(*, lr_decay_rate: float, num_layers: int = 24) -> Callable[[str], float]:
    """`get_vim_lr_decay_rate` with these numbers, as a call that a config which is saved can hold.

    For `lr_factor_func` of `get_default_optimizer_params`.
    """
    return functools.partial(get_vim_lr_decay_rate, lr_decay_rate=lr_decay_rate, num_layers=num_layers)


def _check_weights(weights: object, random_weights: bool) -> None:
    if weights is not None and random_weights:
        raise UserError(f"VisionMamba: weights={str(weights)!r} and random_weights=True are both given; drop one.")


def _check_sizes(patch_size: int, stride: int, depth: int) -> None:
    if not 1 <= stride <= patch_size:
        raise UserError(f"VisionMamba: stride={stride}; expected 1 to patch_size={patch_size}.")
    if depth < 1:
        raise UserError(f"VisionMamba: depth={depth}; expected at least 1.")
