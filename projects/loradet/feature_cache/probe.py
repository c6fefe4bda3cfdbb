"""Runs a frozen part on noise: what its outputs are like, and whether they are the same each time."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.feature_cache.frozen_part import FrozenPart
from loradet.feature_cache.layout import Layout
from loradet.feature_cache.replay import named
from loradet.feature_cache.stores import DiskStore, Key
from loradet.feature_cache.views import SETTING, View

# Of the largest value: batches of other sizes are computed by other kernels, on CUDA some of them in TF32.
_TOLERANCE = {("cpu", torch.float32): 1e-3, ("cuda", torch.float32): 1e-2}
_ROUNDED = 5e-2


@dataclass(frozen=True)
class Probe:
    """What a frozen part gives for an image.

    Attributes:
        layout: of its outputs.
        padded: (height, width) of the batch that it took.
        tensors: the outputs for the noise, as they would be kept.
        size: (height, width) of the noise.
    """

    layout: Layout
    padded: tuple[int, int]
    tensors: dict[str, Tensor]
    size: tuple[int, int]

    def compare(self, store: DiskStore) -> None:
        """Compare with what the run that began a folder got; keep it where there is none.

        Raises:
            UserError: it differs, so that something makes features that the folder's name does not tell.
        """
        key = Key("noise", View(f"noise of {self.size[0]}x{self.size[1]}", 0, self.size))
        row, own = store.read(key), self.layout.pack(self.tensors)
        if row is None:
            store.write(key, self.tensors)
            return
        cpu = torch.device("cpu")
        theirs, ours = (self.layout.batch([one], cpu) for one in (row, own))
        if name := _first_difference(ours, theirs):
            raise UserError(
                f"{store.folder} holds features of {name} that this program computes otherwise. Give another folder "
                "(train.feature_cache.folder), or delete this one."
            )


def fixed_padding(model: nn.Module) -> bool:
    """Whether a detector pads every batch to one size, whatever its images."""
    pad_to = getattr(model, "pad_to", None)
    backbone = getattr(model, "backbone", None)
    square = getattr(backbone, "padding_constraints", {}).get("square_size", 0)
    return (pad_to is not None and pad_to[0] == pad_to[1]) or square > 0


def probe(
    model: nn.Module, part: FrozenPart, size: tuple[int, int], autocast: torch.dtype | None, dtype: str | None
) -> Probe:
    """Run the frozen part on noise.

    Args:
        model: a detector that pads its batches by `preprocess_image`.
        part: of it.
        size: (height, width) of an image, pixels.
        autocast: type of the autocast to compute under, or None.
        dtype: that outputs are kept in, as of `Layout.of`.

    Raises:
        UserError: the same image gives other outputs beside another one, or outputs are not finite.
    """
    if not hasattr(model, "preprocess_image"):
        raise UserError(f"{SETTING}: {type(model).__name__} has no preprocess_image, which tells how it pads a batch.")
    generator = torch.Generator().manual_seed(0)
    noise = [{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)} for _ in range(2)]
    device = next(model.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None), _generators_kept(device):
        alone = model.preprocess_image(noise[:1]).tensor
        first, second = (
            _outputs(model, part, images) for images in (alone, model.preprocess_image(noise[::-1]).tensor)
        )
    layout = Layout.of(first, dtype)
    if name := _first_difference(first, {name: tensor[1:] for name, tensor in second.items()}):
        raise UserError(
            f"{SETTING}: {name} of the frozen part gives other numbers for the same image beside another one, or the "
            "second time: there is nothing to keep. Leave the cache off."
        )
    tensors = layout.tensors({name: tensor[0] for name, tensor in first.items()})
    if tensors is None:
        raise UserError(
            f"{SETTING}: outputs of {part} are not finite{f' as {dtype}' if dtype else ''}; "
            "train.feature_cache.dtype=null keeps them as they are."
        )
    return Probe(layout, tuple(alone.shape[-2:]), tensors, size)


def _outputs(model: nn.Module, part: FrozenPart, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(path: str, output: Any) -> None:
        found.update(named(path, output))
        if path == part.kept[-1]:
            raise _Reached  # what comes behind trains: its dropout and statistics are left alone

    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _, __, output, path=path: keep(path, output))
        for path in part.kept
    ]
    try:
        with contextlib.suppress(_Reached):
            model.get_submodule(part.backbone)(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


class _Reached(Exception):  # noqa: N818 (no error)
    """The last output that is kept is there."""


def _first_difference(found: dict[str, Tensor], other: dict[str, Tensor]) -> str | None:
    for name, tensor in found.items():
        allowed = _TOLERANCE.get((tensor.device.type, tensor.dtype), _ROUNDED) * float(tensor.abs().max())
        if tensor.shape != other[name].shape or float((tensor - other[name]).abs().max()) > allowed:
            return name
    return None


@contextlib.contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """The generators of the CPU and the device are afterwards what they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
