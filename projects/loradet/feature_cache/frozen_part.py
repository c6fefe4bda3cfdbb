"""The part of a detector that is frozen, and through which every image goes first."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from detectron2.modeling import Backbone
from timm.models import FeatureDictNet
from torch import Tensor, nn

from loradet.adapters.layer import is_under, join
from loradet.backbones import TimmBackbone, TimmViT
from loradet.detectors.detr.features import DetrBackbone
from loradet.errors import UserError
from loradet.feature_cache.views import SETTING

# Bookkeeping of modes, which no output of a frozen part depends on.
_LEFT_OUT = ("training", "asked_mode")


@dataclass(frozen=True)
class FrozenPart:
    """Modules that an image goes through before anything that trains.

    Attributes:
        backbone: path of the backbone that they are of.
        steps: paths of the modules, each of which takes what the one before gives, or the backbone alone.
        kept: those of them whose outputs others take.
        behind: paths of modules of the backbone that run after them, and change nothing of what they give.
    """

    backbone: str
    steps: tuple[str, ...]
    kept: tuple[str, ...]
    behind: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all of the backbone is frozen."""
        return self.steps == (self.backbone,)

    def __str__(self) -> str:
        return self.backbone if self.is_whole else f"{self.steps[0]} to {self.steps[-1]}"


def find_frozen_part(model: nn.Module) -> FrozenPart:
    """The largest backbone without anything that trains, else the stages or blocks before the first that trains.

    Raises:
        UserError: there is none; says what trains first.
    """
    backbones = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, Backbone) and not isinstance(module, DetrBackbone)  # a name for another one
    ]
    if not backbones:
        raise UserError(f"{SETTING}: {type(model).__name__} has no Detectron2 backbone, whose outputs could be kept.")
    for path, backbone in backbones:
        if not any(parameter.requires_grad for parameter in backbone.parameters()):
            return FrozenPart(path, (path,), (path,))
    for path, backbone in backbones:
        if (found := _first_steps(path, backbone)) is not None:
            return found
    path, backbone = backbones[-1]
    first = next(name for name, parameter in backbone.named_parameters() if parameter.requires_grad)
    kinds = "TimmBackbone whose network runs stage by stage, or of a TimmViT"
    raise UserError(
        f"{SETTING}: {join(path, first)} trains, and nothing of {path} ({type(backbone).__name__}) in front of it can "
        f"be kept. Freeze the whole backbone, or the first stages or blocks of a {kinds}, or leave the cache off."
    )


def _first_steps(path: str, backbone: nn.Module) -> FrozenPart | None:
    net = getattr(backbone, "net", None)
    if isinstance(backbone, TimmBackbone) and isinstance(net, FeatureDictNet):
        names, taken = [f"net.{name}" for name in net], [f"net.{name}" for name in net.return_layers]
        around, last = list[str](), list[str]()
    elif isinstance(backbone, TimmViT) and net is not None:
        names, taken = [f"net.blocks.{i}" for i in range(len(net.blocks))], [f"net.blocks.{i}" for i in backbone.blocks]
        # Patches and positions come before the blocks, the final norm behind them.
        trains = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
        last = ["net.norm"]
        around = [name for name in trains if not any(is_under(name, one) for one in ("net.blocks", *last))]
    else:
        return None
    frozen = list(takewhile(lambda name: _is_frozen(backbone.get_submodule(name)), names))
    if around or not any(_has_blocks(backbone.get_submodule(name)) for name in frozen):
        return None
    kept = [name for name in frozen if name in taken or name == frozen[-1]]
    behind = [*names[len(frozen) :], *last]
    return FrozenPart(path, *(tuple(join(path, name) for name in group) for group in (frozen, kept, behind)))


def _has_blocks(module: nn.Module) -> bool:
    """Whether it is more than layers of a stem, whose outputs take much to keep and little to compute."""
    return any(True for child in module.children() for _ in child.children())


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())


def check_frozen_part(model: nn.Module, part: FrozenPart) -> None:
    """Refuse a frozen part whose outputs cannot be kept, or a model that would not ask for them.

    In training mode dropout, stochastic depth and batch norms differ from step to step; what is compiled calls no other
    forward pass than its own.

    Raises:
        UserError: names the module.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise UserError(
                f"{SETTING}: {name or 'the model'} is compiled (train.compile), and what is compiled does not ask for "
                "what is kept. Turn one of the two off."
            )
    for step in part.steps:
        for name, module in model.get_submodule(step).named_modules():
            if module.training and not isinstance(module, nn.Identity):
                raise UserError(
                    f"{SETTING}: {join(step, name)} ({type(module).__name__}) of the frozen part is in training mode, "
                    "so that what it gives may change from step to step. Freeze it by loradet.adapters.freeze (without "
                    "statistics=True), which keeps it in eval mode, or leave the cache off."
                )


def _tensors(model: nn.Module, part: FrozenPart) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the frozen part and of what runs before it, by name; buffers that no state dict has among them."""
    backbone = model.get_submodule(part.backbone)
    for found in (backbone.named_parameters, backbone.named_buffers):
        yield from ((name, tensor) for name, tensor in found(remove_duplicate=False) if not _is_behind(name, part))


def _is_behind(name: str, part: FrozenPart) -> bool:
    """Whether a tensor or module of the backbone, by its name in there, runs after the frozen part."""
    return any(is_under(join(part.backbone, name), path) for path in part.behind)


def fingerprint(model: nn.Module, part: FrozenPart) -> str:
    """sha256 of the tensors that outputs depend on, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(model, part), key=lambda item: item[0]):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {flat.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def structure(model: nn.Module, part: FrozenPart) -> str:
    """sha256 of what that is made of besides tensors: classes, and plain attributes such as strides."""
    digest = hashlib.sha256()
    for name, module in model.get_submodule(part.backbone).named_modules():
        if _is_behind(name, part):
            continue
        plain = sorted((key, value) for key, value in vars(module).items() if key not in _LEFT_OUT and _is_plain(value))
        digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {plain!r}\n".encode())
    return digest.hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, int, float, bool, type(None)))
