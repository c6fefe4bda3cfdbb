"""Runs a frozen part on noise: what its outputs are like, and whether they are the same each time."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from loradet.errors import UserError
from loradet.feature_cache.frozen_part import FrozenPart
from loradet.feature_cache.layout import Layout
from loradet.feature_cache.replay import named
from loradet.feature_cache.stores import DiskStore, Key
from loradet.feature_cache.views import SETTING, View

# Of the largest value: batches of other sizes are computed by other kernels, on CUDA some of them in TF32.
_TOLERANCE = {"cpu": 1e-3, "cuda": 1e-2}
_ROUNDED = 5e-2  # of shorter types than float32


@dataclass(frozen=True)
class Probe:
    """What a frozen part gives for an image.

    Attributes:
        layout: of its outputs.
        padded: (height, width) of the batch that it took.
        tensors: the outputs for the noise, as they would be kept.
        size: (height, width) of the noise: that of the batch, where the detector takes images that fill it.
        device: kind of device that they were computed on.
    """

    layout: Layout
    padded: tuple[int, int]
    tensors: dict[str, Tensor]
    size: tuple[int, int]
    device: str

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
        if name := _first_difference(ours, theirs, self.device, [one.kept_dtype for one in self.layout.outputs]):
            raise UserError(
                f"{store.folder} holds features of {name} that this program computes otherwise. Give another folder "
                "(train.feature_cache.folder), or delete this one."
            )


def fixed_padding(model: nn.Module) -> int | None:
    """Edge (pixels) of the square that a detector pads every batch to; None where that depends on its images."""
    pad_to = getattr(model, "pad_to", None)
    backbone = getattr(model, "backbone", None)
    square = getattr(backbone, "padding_constraints", {}).get("square_size", 0)
    return pad_to[0] if pad_to is not None and pad_to[0] == pad_to[1] else square or None


def probe(
    model: nn.Module, part: FrozenPart, size: tuple[int, int], autocast: torch.dtype | None, dtype: str | None
) -> Probe:
    """Run the frozen part on noise that fills a batch.

    Args:
        model: a detector that pads its batches by `preprocess_image`.
        part: of it.
        size: (height, width) of an image, pixels.
        autocast: type of the autocast to compute under, or None.
        dtype: that outputs are kept in, as of `Layout.of`.

    Raises:
        UserError: the same image gives other outputs beside another one, the backbone gets other pixels than
            `preprocess_image` gives, or outputs are not finite.
    """
    if not hasattr(model, "preprocess_image"):
        raise UserError(f"{SETTING}: {type(model).__name__} has no preprocess_image, which tells how it pads a batch.")
    device = next(model.parameters()).device
    with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None), _generators_kept(device):
        # Images of any size are compared by the same noise, where a batch of them has the same size.
        edge = fixed_padding(model)
        size = (edge, edge) if edge else tuple(model.preprocess_image(_noise(*size)[:1]).tensor.shape[-2:])
        noise = _noise(*size)
        alone = model.preprocess_image(noise[:1]).tensor
        _check_pixels(model, part, noise[:1], alone)
        first, second = (
            _outputs(model, part, images) for images in (alone, model.preprocess_image(noise[::-1]).tensor)
        )
    layout = Layout.of(first, dtype)
    of_noise = {name: tensor[1:] for name, tensor in second.items()}
    if name := _first_difference(first, of_noise, device.type, [one.dtype for one in layout.outputs]):
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
    return Probe(layout, tuple(alone.shape[-2:]), tensors, size, device.type)


def _noise(height: int, width: int) -> list[dict[str, Any]]:
    """Two samples without objects."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    truth = Instances((height, width), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    sample = {"file_name": "noise", "image_id": 0, "height": height, "width": width, "instances": truth}
    return [{**sample, "image": image} for image in images]


def _check_pixels(model: nn.Module, part: FrozenPart, noise: list[dict[str, Any]], pixels: Tensor) -> None:
    """Refuse a detector that gives its backbone something else than `preprocess_image` makes.

    Raises:
        UserError: it does.
    """
    found: list[Tensor] = []

    def stop(_: nn.Module, args: tuple) -> None:
        found.append(args[0])
        raise _Reached

    backbone, mode = model.get_submodule(part.backbone), model.training
    hook = backbone.register_forward_pre_hook(stop)
    try:
        for model.training in (True, False):  # of the detector alone: nothing of it runs but what makes pixels
            with contextlib.suppress(_Reached):
                model(noise)
    finally:
        hook.remove()
        model.training = mode
    if len(found) != 2 or not all(pixels.equal(one) for one in found):
        raise UserError(
            f"{SETTING}: {type(model).__name__} runs {part.backbone} ({type(backbone).__name__}) on other pixels than "
            "its preprocess_image gives, so that features are not of an image alone. Leave the cache off."
        )


def _outputs(model: nn.Module, part: FrozenPart, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}

    def keep(path: str, output: Any) -> None:
        found.update(named(path, output))
        copies.update({name: tensor.clone() for name, tensor in named(path, output).items()})
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
    for name, tensor in found.items():
        if not torch.equal(tensor.nan_to_num(), copies[name].nan_to_num()):
            raise UserError(
                f"{SETTING}: {name} is changed in place by what is frozen behind it, which does not run where outputs "
                "are kept. Leave the cache off."
            )
    return copies


class _Reached(Exception):  # noqa: N818 (no error)
    """The last output that is kept is there."""


def _first_difference(
    found: dict[str, Tensor], other: dict[str, Tensor], device: str, dtypes: Sequence[torch.dtype]
) -> str | None:
    """The name of an output that differs by more than computing it on a kind of device in these types allows."""
    is_long = all(dtype.itemsize >= 4 for dtype in dtypes)
    allowed = _TOLERANCE.get(device, max(_TOLERANCE.values())) if is_long else _ROUNDED
    for name, tensor in found.items():
        most = allowed * float(tensor.abs().max())
        if tensor.shape != other[name].shape or float((tensor - other[name]).abs().max()) > most:
            return name
    return None


@contextlib.contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """The generators of the CPU and the device are afterwards what they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
