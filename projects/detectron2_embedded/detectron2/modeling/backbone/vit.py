"""A plain vision transformer as a detector's backbone: ViTDet, https://arxiv.org/abs/2203.16527."""

from collections.abc import Callable, Sequence

import torch
from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from detectron2.modeling.backbone.backbone import Backbone
from detectron2.modeling.backbone.simple_feature_pyramid import SimpleFeaturePyramid
from detectron2.modeling.backbone.utils import (
    PatchEmbed,
    _decomposed_rel_pos,
    get_abs_pos,
    window_partition,
    window_unpartition,
)
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

__all__ = ["SimpleFeaturePyramid", "ViT", "get_vit_lr_decay_rate"]

Layer = Callable[..., nn.Module]


class Attention(nn.Module):
    """Attention between all positions of a map, with relative positions or without."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            dim: channels.
            num_heads: divides `dim`.
            qkv_bias: queries, keys and values have a bias.
            use_rel_pos: relative positions, along rows and columns, are added to the logits.
            rel_pos_zero_init: they start at zero; else at small random numbers.
            input_size: (height, width) that the relative positions are made for; others are interpolated.
        """
        super().__init__()
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            assert input_size is not None, "Relative positions need input_size, the (height, width) they are made for."
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * input_size[0] - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * input_size[1] - 1, head_dim))
            if not rel_pos_zero_init:
                nn.init.trunc_normal_(self.rel_pos_h, std=0.02)
                nn.init.trunc_normal_(self.rel_pos_w, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same shape."""
        num_maps, height, width, _ = x.shape
        qkv = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = None
        if self.use_rel_pos:
            size = (height, width)
            bias = _decomposed_rel_pos(q.flatten(0, 1), self.rel_pos_h, self.rel_pos_w, size, size)
            bias = bias.unflatten(0, (num_maps, self.num_heads)).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class ResBottleneckBlock(CNNBlockBase):
    """1x1, 3x3 and 1x1 convolutions beside the identity. The last norm starts at zero: so does the block."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck_channels: int,
        norm: str | Callable[[int], nn.Module] = "LN",
        act_layer: Layer = nn.GELU,
    ) -> None:
        super().__init__(in_channels, out_channels, 1)
        width = bottleneck_channels
        self.conv1 = Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = get_norm(norm, width)
        self.act1 = act_layer()
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = get_norm(norm, width)
        self.act2 = act_layer()
        self.conv3 = Conv2d(width, out_channels, 1, bias=False)
        self.norm3 = get_norm(norm, out_channels)
        for conv in (self.conv1, self.conv2, self.conv3):
            c2_msra_fill(conv)
        nn.init.zeros_(self.norm3.weight)
        nn.init.zeros_(self.norm3.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        return x + self.norm3(self.conv3(out))


class _Mlp(nn.Module):
    """Two linear layers at every position."""

    def __init__(self, dim: int, hidden: int, act_layer: Layer) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside the identity."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        use_residual_block: bool = False,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        """
        Args:
            drop_path: probability that a branch is left out for an image, in training.
            window_size: attention stays within windows of this side; 0: it is global.
            use_residual_block: a `ResBottleneckBlock` follows, which carries over the borders of windows.
            input_size: see `Attention`; the window's where there are windows.
        """
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            use_rel_pos=use_rel_pos,
            rel_pos_zero_init=rel_pos_zero_init,
            input_size=(window_size, window_size) if window_size > 0 else input_size,
        )
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = _Mlp(dim, int(dim * mlp_ratio), act_layer)
        self.window_size = window_size
        self.use_residual_block = use_residual_block
        if use_residual_block:
            self.residual = ResBottleneckBlock(dim, dim, dim // 2, norm="LN", act_layer=act_layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        if self.use_residual_block:
            x = self.residual(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        if self.window_size == 0:
            return self.attn(x)
        size = (x.shape[1], x.shape[2])
        windows, padded = window_partition(x, self.window_size)
        return window_unpartition(self.attn(windows), self.window_size, padded, size)


class ViT(Backbone):
    """Patches, positions, and blocks of one width and one stride. There is no class token and no last norm."""

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        window_block_indexes: Sequence[int] = (),
        residual_block_indexes: Sequence[int] = (),
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_feature: str = "last_feat",
    ) -> None:
        """
        Args:
            img_size: side that relative positions of global blocks are made for; any input size will do.
            drop_path_rate: of the last block; it rises linearly from 0 at the first one.
            window_size: see `Block`.
            window_block_indexes: blocks with windows; the others are global.
            residual_block_indexes: blocks with a `ResBottleneckBlock` at their end.
            use_act_checkpoint: for the backward pass, keep only the input of each block and compute the rest again.
            pretrain_img_size: side that the absolute positions are made for; others are interpolated.
            pretrain_use_cls_token: the absolute positions have one for a class token, which is not used.
            out_feature: name of the output.
        """
        super().__init__()
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.patch_embed = PatchEmbed(
            kernel_size=(patch_size, patch_size),
            stride=(patch_size, patch_size),
            in_chans=in_chans,
            embed_dim=embed_dim,
        )
        self.pos_embed = None
        if use_abs_pos:
            num_positions = (pretrain_img_size // patch_size) ** 2 + int(pretrain_use_cls_token)
            self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, embed_dim))
        drop_path = torch.linspace(0, drop_path_rate, depth).tolist()
        side = img_size // patch_size
        self.blocks = nn.ModuleList(
            Block(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=drop_path[i],
                norm_layer=norm_layer,
                act_layer=act_layer,
                use_rel_pos=use_rel_pos,
                rel_pos_zero_init=rel_pos_zero_init,
                window_size=window_size if i in window_block_indexes else 0,
                use_residual_block=i in residual_block_indexes,
                input_size=(side, side),
            )
            for i in range(depth)
        )
        # In this order, first weights are those of Detectron2 under the same seed.
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.use_act_checkpoint = use_act_checkpoint
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: embed_dim}
        self._out_feature_strides = {out_feature: patch_size}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, in_chans, H, W) to one map (N, embed_dim, H / patch_size, W / patch_size)."""
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + get_abs_pos(self.pos_embed, self.pretrain_use_cls_token, (x.shape[1], x.shape[2]))
        for block in self.blocks:
            # Not a matter of train or eval mode: gradients pass through a frozen backbone with adapters, too.
            if self.use_act_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return {self._out_features[0]: x.permute(0, 3, 1, 2)}


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """Factor on the learning rate of a parameter: each block below the top multiplies it by `lr_decay_rate`.

    Positions and patches come below the first block; what is not part of the blocks of `backbone`, and the
    residual blocks, which are not pretrained, keep the full rate.

    Args:
        name: of the parameter in the detector, such as `backbone.net.blocks.3.attn.qkv.weight`.
        lr_decay_rate: factor per block.
        num_layers: number of blocks.
    """
    blocks_above = 0
    if name.startswith("backbone"):
        parts = name.split(".")
        if any(part.startswith(("pos_embed", "patch_embed")) for part in parts[1:]):
            blocks_above = num_layers + 1
        elif "blocks" in parts[1:-1] and "residual" not in parts[1:-1]:
            blocks_above = num_layers - int(parts[parts.index("blocks") + 1])
    return lr_decay_rate**blocks_above
