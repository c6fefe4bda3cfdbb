"""Small timm networks whose blocks take Mona and AdaptFormer."""

import torch
from torch import nn

from loradet.backbones import TimmBackbone, TimmViT

_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
_CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "ls_init_value": 0.5}
_SWIN = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4, "img_size": (64, 96)}
# Name → network, images that it is given (rows and columns differ), and how many tokens come before the patches'.
NETS = {
    "vit": (lambda: TimmViT("vit_tiny_patch16_224", init_values=0.5, **_VIT), (48, 80), 1),
    "vit with registers": (lambda: TimmViT("vit_small_patch14_reg4_dinov2", **_VIT), (28, 50), 5),
    "eva": (lambda: TimmViT("vit_small_patch16_dinov3", **_VIT), (64, 33), 5),
    "swin": (lambda: TimmBackbone("swin_tiny_patch4_window7_224", out_features=["stage1"], **_SWIN), (64, 96), 0),
    "convnext": (lambda: TimmBackbone("convnext_atto", **_CONVNEXT), (64, 96), 0),
    "convnext of linear layers": (lambda: TimmBackbone("convnext_tiny", **_CONVNEXT), (32, 96), 0),
    "convnext v2": (lambda: TimmBackbone("convnextv2_atto", **_CONVNEXT | {"ls_init_value": None}), (64, 32), 0),
}


def make_net(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network whose blocks do something, in eval mode, and images."""
    build, size, _ = NETS[name]
    torch.manual_seed(0)
    net = build().eval()
    for key, parameter in net.named_parameters():
        if "gamma" in key and parameter.dim() == 1:  # timm's layer scales are next to nothing
            nn.init.uniform_(parameter, 0.5, 1.5)
    return net, torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def randomize(net: nn.Module, seed: int = 1) -> nn.Module:
    """As after training: all that trains has other values."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net
