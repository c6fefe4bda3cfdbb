"""Normalisation layers, and how configs name them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and a fixed affine map: all are buffers, so nothing trains or drifts.

    y = (x - running_mean) / sqrt(running_var + eps) * weight + bias; a fresh one is the identity.
    """

    # Files of version 3 keep running_var without eps; Detectron2 reads this number from the state dict.
    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape and dtype."""
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # Autograd of F.batch_norm would keep x; an affine map with constants keeps only the scale.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        shape = (1, -1, 1, 1)
        return torch.addcmul(shift.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A trainable batch norm counts its batches, this one does not.
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}, eps={self.eps}"

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every batch norm inside `module` by a frozen one with the same numbers.

        Children are replaced in place. Returns `module`, or its replacement where it is a batch norm itself.

        Raises:
            ValueError: a batch norm without running statistics.
        """
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            return cls._frozen_copy(module)
        for name, child in module.named_children():
            frozen = cls.convert_frozen_batchnorm(child)
            if frozen is not child:
                setattr(module, name, frozen)
        return module

    @classmethod
    def _frozen_copy(cls, norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> "FrozenBatchNorm2d":
        if norm.running_mean is None:
            raise ValueError(f"Cannot freeze {norm}: it keeps no running statistics (track_running_stats=False).")
        frozen = cls(norm.num_features, norm.eps).to(norm.running_mean.device)
        frozen.running_mean.copy_(norm.running_mean)
        frozen.running_var.copy_(norm.running_var)
        if norm.affine:
            frozen.weight.copy_(norm.weight.detach())
            frozen.bias.copy_(norm.bias.detach())
        return frozen.train(norm.training)


class LayerNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W), at every position by itself.

    Not a subclass of `nn.LayerNorm`: optimizers that spare norms from weight decay do not count it as one.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps = eps
        self.normalized_shape = (normalized_shape,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        channels_last = x.permute(0, 2, 3, 1)
        return F.layer_norm(channels_last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class CycleBatchNormList(nn.Module):
    """Batch norms with statistics of their own and one shared affine map, used in turn, a call each.

    For a head that runs over `length` feature levels one after the other: every level keeps its statistics.
    """

    def __init__(
        self,
        length: int,
        bn_class: Callable[..., nn.Module] = nn.BatchNorm2d,
        *,
        affine: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            length: number of norms.
            bn_class: class of the norms, called with `kwargs` (`num_features` among them).
            affine: whether the norms end in a shared weight and bias.
        """
        super().__init__()
        self.bns = nn.ModuleList([bn_class(**kwargs, affine=False) for _ in range(length)])
        self._affine = affine
        if affine:
            channels = self.bns[0].num_features
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self._pos = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape, by the norm whose turn it is."""
        x = self.bns[self._pos](x)
        self._pos = (self._pos + 1) % len(self.bns)
        if not self._affine:
            return x
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        return f"affine={self._affine}"


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": lambda channels: nn.GroupNorm(32, channels),
    "nnSyncBN": nn.SyncBatchNorm,
    "LN": LayerNorm,
}


def get_norm(norm: str | Callable[[int], nn.Module] | None, out_channels: int) -> nn.Module | None:
    """A norm for `out_channels` channels, by its name in `NORMS` or by a callable that takes the channels.

    None and "" give None: no norm.

    Raises:
        KeyError: an unknown name.
    """
    if norm is None or norm == "":
        return None
    if isinstance(norm, str):
        if norm not in NORMS:
            raise KeyError(f"Unknown norm {norm!r}; the names are: {', '.join(NORMS)}, or '' for none.")
        norm = NORMS[norm]
    return norm(out_channels)
