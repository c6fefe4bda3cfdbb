"""What a kept entry holds: tensors of one image, as they lie one after the other in one row of bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Output:
    """One tensor of an entry.

    Attributes:
        name: the module's path, and behind a colon the map's name where the module gives several.
        shape: as kept, of one image; with the channels at the end where the module gives them so in memory.
        dtype: as the module gives it.
        kept_dtype: as kept.
        channels_last: whether (H, W, C) is kept of (C, H, W).
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kept_dtype: torch.dtype
    channels_last: bool

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return torch.Size(self.shape).numel() * self.kept_dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The tensors of an entry, in the order in which they are kept: the widest types first, so that all lie even."""

    outputs: tuple[Output, ...]

    @classmethod
    def of(cls, found: Mapping[str, Tensor], dtype: str | None) -> "Layout":
        """The layout of outputs as modules give them.

        Args:
            found: by name, with the images of a batch along the first axis.
            dtype: "bf16" or "fp16" to keep floating-point outputs in; None: as they are.
        """
        outputs = [_output(name, tensor, dtype) for name, tensor in found.items()]
        return cls(tuple(sorted(outputs, key=lambda one: -one.kept_dtype.itemsize)))

    @property
    def nbytes(self) -> int:
        """Bytes of an entry."""
        return sum(one.nbytes for one in self.outputs)

    @property
    def overflows(self) -> bool:
        """Whether finite outputs may be infinite as they are kept."""
        return any(one.kept_dtype == torch.float16 != one.dtype for one in self.outputs)

    def describe(self) -> list[list[Any]]:
        """Plain values, for files."""
        return [[one.name, list(one.shape), _word(one.kept_dtype), _word(one.dtype)] for one in self.outputs]

    def tensors(self, found: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors of one image as they are kept, on the CPU; None where one is not finite (an fp16 overflows).

        Args:
            found: by name, without the axis of images.
        """
        kept = {}
        for one in self.outputs:
            tensor = found[one.name].detach()
            tensor = tensor.permute(1, 2, 0) if one.channels_last else tensor
            tensor = tensor.to("cpu", one.kept_dtype).contiguous().clone()
            if not torch.isfinite(tensor).all():
                return None
            kept[one.name] = tensor
        return kept

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of one image, as kept, in one row of bytes."""
        return torch.cat([tensors[one.name].reshape(-1).view(torch.uint8) for one in self.outputs])

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether tensors from a file are those of this layout."""
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        return found == {one.name: (one.shape, one.kept_dtype) for one in self.outputs}

    def batch(self, rows: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        """Outputs of several images by name, as the modules would give them.

        Args:
            rows: of each image, as `pack` gives them.
        """
        found, begin = {}, 0
        for one in self.outputs:
            end = begin + one.nbytes
            stacked = torch.stack([row[begin:end].view(one.kept_dtype).view(one.shape) for row in rows])
            stacked = stacked.to(device, one.dtype, non_blocking=True)
            found[one.name] = stacked.permute(0, 3, 1, 2) if one.channels_last else stacked
            begin = end
        return found


def _output(name: str, tensor: Tensor, dtype: str | None) -> Output:
    last = tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    shape = tuple(tensor[0].permute(1, 2, 0).shape if last else tensor.shape[1:])
    kept = DTYPES[dtype] if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return Output(name, shape, tensor.dtype, kept, last)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
