"""Normalisation layers, and how configs name them."""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.utils import comm
from fvcore.nn.distributed import differentiable_all_reduce
from torch import nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and a fixed affine map: all are buffers, so nothing trains or drifts.

    y = (x - running_mean) / sqrt(running_var + eps) * weight + bias; a fresh one is the identity.
    """

    # Torch writes this into state dicts; files without it, or with less than 2, may come without statistics.
    _version = 3

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # Of the norm that this one was made from, if that counted; it goes on being saved, and never changes.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape and dtype."""
        if not x.requires_grad:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        # Autograd of F.batch_norm would keep x; an affine map with constants keeps only the scale.
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        shape = (1, -1, 1, 1)
        return torch.addcmul(shift.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        if (local_metadata.get("version") or 1) < 2 and prefix + "weight" in state_dict:
            # The oldest files (Caffe2's) have the statistics folded into weight and bias.
            state_dict.setdefault(prefix + "running_mean", torch.zeros_like(self.running_mean))
            state_dict.setdefault(prefix + "running_var", torch.ones_like(self.running_var))
        # A trainable batch norm counts its batches, this one need not.
        counter = prefix + "num_batches_tracked"
        if self.num_batches_tracked is None:
            state_dict.pop(counter, None)
        else:
            state_dict.setdefault(counter, self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

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
        frozen.num_batches_tracked = norm.num_batches_tracked
        return frozen.train(norm.training)

    @classmethod
    def convert_frozenbatchnorm2d_to_batchnorm2d(cls, module: nn.Module) -> nn.Module:
        """Replace every frozen batch norm inside `module` by a trainable one with the same numbers.

        Children are replaced in place. Returns `module`, or its replacement where it is a frozen norm itself.
        """
        if isinstance(module, FrozenBatchNorm2d):
            return cls._trainable_copy(module)
        for name, child in module.named_children():
            trainable = cls.convert_frozenbatchnorm2d_to_batchnorm2d(child)
            if trainable is not child:
                setattr(module, name, trainable)
        return module

    @staticmethod
    def _trainable_copy(frozen: "FrozenBatchNorm2d") -> nn.BatchNorm2d:
        norm = nn.BatchNorm2d(frozen.num_features, frozen.eps).to(frozen.running_mean.device)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).copy_(getattr(frozen, name))
        if frozen.num_batches_tracked is not None:
            norm.num_batches_tracked.copy_(frozen.num_batches_tracked)
        return norm.train(frozen.training)


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


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the maps of all processes, of which each may have another number and size of maps.

    Mean and mean square are averaged over processes, not over positions: those of a process with large maps count no
    more than another's. In evaluation, and in a run of one process, it is `nn.BatchNorm2d`.
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        """
        Args:
            stats_mode: "" counts every process alike; "N" by its number of maps, which may be 0.
            args, kwargs: of `nn.BatchNorm2d`.

        Raises:
            AssertionError: another mode.
        """
        super().__init__(*args, **kwargs)
        assert stats_mode in ("", "N"), f"stats_mode is '' or 'N', got {stats_mode!r}."
        self._stats_mode = stats_mode

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape and dtype.

        Raises:
            AssertionError: a process has no map, and `stats_mode` is "".
        """
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        # Sums of squares need more than half precision.
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        mean, mean_square, momentum = self._statistics(x)
        variance = mean_square - mean * mean
        self.running_mean += momentum * (mean.detach() - self.running_mean)
        self.running_var += momentum * (variance.detach() - self.running_var)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)

    def _statistics(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | float]:
        """Mean (C,) and mean square (C,) over all processes, and how far the running statistics move."""
        count = len(x)
        if self._stats_mode == "":
            assert count > 0, 'NaiveSyncBatchNorm takes no empty batch; stats_mode="N" does.'
            total = differentiable_all_reduce(torch.cat((x.mean((0, 2, 3)), (x * x).mean((0, 2, 3)))))
            return *(total / comm.get_world_size()).chunk(2), self.momentum
        if count == 0:
            own = x.new_zeros(2 * x.shape[1] + 1) + x.sum()  # 0, and connected: every process has its part in backward
        else:
            own = count * torch.cat((x.mean((0, 2, 3)), (x * x).mean((0, 2, 3)), x.new_ones(1)))
        total = differentiable_all_reduce(own)
        maps = total[-1].detach()
        return *(total[:-1] / maps.clamp(min=1)).chunk(2), maps.clamp(max=1) * self.momentum


class CycleBatchNormList(nn.ModuleList):
    """Batch norms with statistics of their own and one shared affine map, used in turn, a call each.

    For a head that runs over `length` feature levels one after the other: every level keeps its statistics.
    """

    def __init__(self, length: int, bn_class: Callable[..., nn.Module] = nn.BatchNorm2d, **kwargs: Any) -> None:
        """
        Args:
            length: number of norms.
            bn_class: class of the norms.
            kwargs: arguments of that class (`num_features` among them), but for `affine`: whether the norms end in
                a shared weight and bias, true by default.
        """
        self._affine = kwargs.pop("affine", True)
        super().__init__([bn_class(**kwargs, affine=False) for _ in range(length)])
        if self._affine:
            channels = self[0].num_features
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        self._pos = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape, by the norm whose turn it is."""
        x = self[self._pos](x)
        self._pos = (self._pos + 1) % len(self)
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
    "naiveSyncBN": NaiveSyncBatchNorm,
    "naiveSyncBN_N": lambda channels: NaiveSyncBatchNorm(channels, stats_mode="N"),
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
