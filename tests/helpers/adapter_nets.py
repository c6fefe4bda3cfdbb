"""Tiny networks with what adapters meet: linear layers, all sorts of convolutions, norms, dropout, a detector."""

import torch
from torch import nn


class Mlp(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, 2 * channels)
        self.act = nn.GELU()
        self.drop = nn.Dropout(0.5)
        self.fc10 = nn.Linear(2 * channels, channels)

    def forward(self, x):
        return self.fc10(self.drop(self.act(self.fc1(x))))


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)
        self.mlp = Mlp(channels)
        self.xmlp = Mlp(channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        y = self.norm(self.conv_dw(x)).permute(0, 2, 3, 1)
        return x + (self.gamma * (self.mlp(y) + self.xmlp(y))).permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """(N, 3, H, W) → (N, 8, H/2, W/2)."""

    model_name = "tiny"

    def __init__(self, channels: int = 8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.stages_0 = nn.Sequential(Block(channels), Block(channels))
        self.stages_1 = nn.Sequential(Block(channels))

    def forward(self, x):
        return self.stages_1(self.stages_0(self.stem(x)))


class Neck(nn.Module):
    def __init__(self, bottom_up: nn.Module, channels: int = 8):
        super().__init__()
        self.bottom_up = bottom_up
        self.lateral = nn.Conv2d(channels, 4, 1)

    def forward(self, x):
        return self.lateral(self.bottom_up(x))


class Head(nn.Module):
    """Branches on the mode, as detectors do."""

    def __init__(self, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.cls_score = nn.Conv2d(4, classes, 1)

    def forward(self, x):
        y = self.cls_score(self.norm(x))
        return {"loss": y.square().mean()} if self.training else y


class Detector(nn.Module):
    def __init__(self, bottom_up: nn.Module | None = None, classes: int = 2):
        super().__init__()
        self.backbone = Neck(bottom_up or Backbone())
        self.head = Head(classes)
        self.register_buffer("pixel_mean", torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.ones(3, 1, 1), persistent=False)

    def forward(self, x):
        return self.head(self.backbone((x - self.pixel_mean) / self.pixel_std))


def seeded(seed: int, build, *args, **kwargs):
    """`build(...)` under a seed."""
    torch.manual_seed(seed)
    return build(*args, **kwargs)


def randomize_deltas(model: nn.Module, seed: int = 7) -> nn.Module:
    """Give every delta a B that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            parameter.data.normal_(0, 0.2, generator=generator)
    return model


def state_copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved_bytes(layer: nn.Module, x: torch.Tensor, autocast: bool) -> int:
    """Bytes of distinct storages saved for backward, without those of the parameters themselves."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        y = layer(x)
    total = sum(storage.nbytes() for storage in storages.values())
    y.float().sum().backward()
    return total
