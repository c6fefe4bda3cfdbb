"""Forward passes of timm's blocks with room for Mona and AdaptFormer; imported only where timm is.

Each computes what the block's own does, in the same order. `block_injection` lists what these read, and refuses a block
of a timm whose forward pass reads anything else.
"""

from typing import TYPE_CHECKING, Any

from timm.models.convnext import ConvNeXtBlock
from timm.models.eva import EvaBlock
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from loradet.adapters.variants.adaptformer import AdaptFormerBlock
from loradet.adapters.variants.blocks import AdaptedBlock
from loradet.adapters.variants.mona import MonaBlock

_Base: Any = AdaptedBlock if TYPE_CHECKING else object


class _ViT(_Base):
    @staticmethod
    def channels_of(block: Any) -> int:
        return block.attn.proj.out_features

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """(N, L, C) tokens, and what else the attention is given."""
        entered = x
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), **attention)))
        x = self._after_attention(x, entered)
        normed = self.norm2(x)
        x = x + self.drop_path2(self.ls2(self.mlp(normed)))
        return self._after_mlp(x, normed, entered)


class _Eva(_Base):
    @staticmethod
    def channels_of(block: Any) -> int:
        return block.attn.proj.out_features

    def forward(self, x: Tensor, rope: Tensor | None = None, **attention: Any) -> Tensor:
        """(N, L, C) tokens, rotary position embeddings, and what else the attention is given."""
        entered = x
        y = self.attn(self.norm1(x), rope=rope, **attention)
        x = x + self.drop_path1(y if self.gamma_1 is None else self.gamma_1 * y)
        x = self._after_attention(x, entered)
        normed = self.norm2(x)
        y = self.mlp(normed)
        x = x + self.drop_path2(y if self.gamma_2 is None else self.gamma_2 * y)
        return self._after_mlp(x, normed, entered)


class _Swin(_Base):
    @staticmethod
    def channels_of(block: Any) -> int:
        return block.dim

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C)."""
        entered = x
        x = x + self.drop_path1(self._attn(self.norm1(x)))
        x = self._after_attention(x, entered)
        normed = self.norm2(x)
        x = x + self.drop_path2(self.mlp(normed))
        return self._after_mlp(x, normed, entered)


class _ConvNeXt(_Base):
    @staticmethod
    def channels_of(block: Any) -> int:
        return block.conv_dw.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W)."""
        entered = x
        x = self.conv_dw(x)
        x = x if self.use_conv_mlp else x.permute(0, 2, 3, 1)
        normed = self.norm(x)
        x = self.mlp(normed)
        x, normed = (x, normed.permute(0, 2, 3, 1)) if self.use_conv_mlp else (x.permute(0, 3, 1, 2), normed)
        x = x if self.gamma is None else x.mul(self.gamma.reshape(1, -1, 1, 1))
        x = self.drop_path(x) + self.shortcut(entered)
        return self._after_mlp(x.permute(0, 2, 3, 1), normed, entered).permute(0, 3, 1, 2)


class MonaViTBlock(MonaBlock, _ViT, Block):
    """timm's ViT block with Mona."""


class MonaEvaBlock(MonaBlock, _Eva, EvaBlock):
    """timm's EVA block with Mona."""


class MonaSwinBlock(MonaBlock, _Swin, SwinTransformerBlock):
    """timm's Swin block with Mona."""


class MonaConvNeXtBlock(MonaBlock, _ConvNeXt, ConvNeXtBlock):
    """timm's ConvNeXt block with Mona at its end."""

    own_names = ("mona",)


class AdaptFormerViTBlock(AdaptFormerBlock, _ViT, Block):
    """timm's ViT block with AdaptFormer."""


class AdaptFormerEvaBlock(AdaptFormerBlock, _Eva, EvaBlock):
    """timm's EVA block with AdaptFormer."""


class AdaptFormerSwinBlock(AdaptFormerBlock, _Swin, SwinTransformerBlock):
    """timm's Swin block with AdaptFormer."""


class AdaptFormerConvNeXtBlock(AdaptFormerBlock, _ConvNeXt, ConvNeXtBlock):
    """timm's ConvNeXt block with AdaptFormer."""


_BASES: tuple[type[nn.Module], ...] = (Block, EvaBlock, SwinTransformerBlock, ConvNeXtBlock)
_ADAPTED: dict[str, tuple[type[AdaptedBlock], ...]] = {
    "mona": (MonaViTBlock, MonaEvaBlock, MonaSwinBlock, MonaConvNeXtBlock),
    "adaptformer": (AdaptFormerViTBlock, AdaptFormerEvaBlock, AdaptFormerSwinBlock, AdaptFormerConvNeXtBlock),
}
# Variant and name of timm's class → the class with room for it.
CLASSES = {
    (variant, base.__name__): adapted for variant, found in _ADAPTED.items() for base, adapted in zip(_BASES, found)
}
