"""Tiny networks whose MLPs and attention are recognised, and one step of them."""

import torch
from torch import nn

from helpers.adapter_nets import randomize_deltas, seeded
from loradet.adapters import freeze, lora
from loradet.backbones import TimmBackbone, TimmViT
from loradet.detectors.detr import DetrTransformer

# timm starts layer scales at 1e-6, which hides what the blocks do.
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "ls_init_value": 0.5}
VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64}


def convnext(**kwargs) -> nn.Module:
    return TimmBackbone("convnext_atto", **{**CONVNEXT, "conv_mlp": False, **kwargs})


def vit(name: str = "vit_tiny_patch16_224", **kwargs) -> nn.Module:
    return TimmViT(name, **{**VIT, **kwargs})


class Sequence(nn.Module):
    """Norm, linear, activation, linear in a plain module of one's own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.last = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 16))

    def forward(self, x):
        x = x.flatten(1).unflatten(1, (-1, 16))
        x = x + self.inner(x)
        return {"y": x + self.last(x)}


class Transformer(nn.Module):
    """DETR's, on images of which each 8×8 is a cell."""

    def __init__(self, activation: str, pre_norm: bool):
        super().__init__()
        options = {"num_encoder_layers": 2, "num_decoder_layers": 2, "dim_feedforward": 64}
        self.transformer = DetrTransformer(
            hidden_dim=12, num_heads=2, activation=activation, pre_norm=pre_norm, **options
        )
        self.register_buffer("queries", torch.linspace(-1, 1, 60).view(5, 12))

    def forward(self, x):
        cells = x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).mean(-1).repeat(1, 4, 1, 1)
        decoded, encoded = self.transformer(cells, cells.sin(), self.queries)
        return {"decoded": decoded, "encoded": encoded}


def transformer(activation: str = "relu", pre_norm: bool = False) -> nn.Module:
    return Transformer(activation, pre_norm)


def adapted(build, targets, memory: str, *, unfreeze=(), rank: int = 3, **options) -> nn.Module:
    """In train mode, with the same weights each time."""
    net = seeded(0, build)
    if unfreeze is not None:
        net = freeze(net, unfreeze=unfreeze)
    net = seeded(1, lora, net, targets, rank, 2.0 * rank, memory=memory, **options)
    return randomize_deltas(net).train()


def images(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def loss_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return sum(value.float().sin().mean() for value in net(x).values())


def step(net: nn.Module, x: torch.Tensor, dtype: torch.dtype | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of everything that trains."""
    net.zero_grad(set_to_none=True)
    torch.manual_seed(3)  # of dropout
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        loss = loss_of(net, x)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_same(ours: tuple, plain: tuple, tolerance: float) -> None:
    """Losses are equal; gradients are of the same parameters and equal to `tolerance` of the largest of each."""
    assert ours[0] == plain[0]
    assert ours[1].keys() == plain[1].keys() and any(g.any() for g in plain[1].values())
    for name, gradient in plain[1].items():
        assert (ours[1][name] - gradient).abs().max() <= tolerance * gradient.abs().max(), name


def saved_mb(net: nn.Module, x: torch.Tensor, dtype: torch.dtype | None = None) -> float:
    """MB of distinct storages kept for backward, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        loss = loss_of(net, x)
    total = sum(storage.nbytes() for address, storage in storages.items() if address not in own)
    loss.backward()
    return total / 1e6
