"""`train.compile`: torch.compile of the parts of a model whose sizes are the same in every step."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from loradet.errors import UserError

logger = logging.getLogger(__name__)

# Behind the backbone, what computes from maps alone: RetinaNet's head, the RPN's, DETR's layers. Matching and losses
# hang on the number of objects, and would be compiled anew for each.
PARTS_BEHIND = ("head", "proposal_generator.rpn_head", "input_proj", "transformer", "class_embed", "bbox_embed")
# Augmentations after which all images have one size, and those that leave it.
_SIZING = ("Resize", "FixedSizeCrop")
_KEEPING = (
    *("RandomFlip", "RandomBrightness", "RandomContrast", "RandomSaturation", "RandomLighting", "RandomAffine"),
    "RandomColor",
    "NoOpTransform",
)
_OFF = "or leave train.compile.enabled=False"


def compile_model(model: nn.Module, cfg: DictConfig) -> None:
    """Compile in place what `train.compile` says, where it is on; state-dict keys stay.

    Args:
        model: on its device; not yet wrapped in DDP.
        cfg: complete.

    Raises:
        UserError: the training images have several sizes, the model has no `backbone`, or there is no compiler.
    """
    settings = cfg.train.compile
    if not settings.enabled:
        return
    if reason := why_sizes_vary(cfg):
        raise UserError(
            f"train.compile: {reason}, and each size would be compiled anew. Resize to one size "
            f"(dataloader.train.mapper.augmentations: Resize(shape=[H, W])), give a DETR model.pad_to=[H,W], {_OFF}."
        )
    parts = parts_to_compile(model, settings.what)
    _check_compiler(next(model.parameters()).device)
    for module in parts.values():
        module.compile(mode=settings.mode, dynamic=False)
    logger.info("train.compile: %s; the first step takes minutes.", ", ".join(parts))


def parts_to_compile(model: nn.Module, what: str) -> dict[str, nn.Module]:
    """Modules by their path.

    Args:
        model: a detector.
        what: "backbone", or "model": those behind it too.

    Raises:
        UserError: it has no `backbone`.
    """
    modules = dict(model.named_modules())
    if "backbone" not in modules:
        raise UserError(f"train.compile: {type(model).__name__} has no `backbone` to compile; {_OFF[3:]}.")
    names = ("backbone", *PARTS_BEHIND) if what == "model" else ("backbone",)
    return {name: modules[name] for name in names if name in modules}


def why_sizes_vary(cfg: DictConfig) -> str | None:
    """Why batches of training images would not all have one size (or that and its quarter turn); None: they have.

    A DETR with `pad_to` pads them; else the augmentations decide.
    """
    if OmegaConf.select(cfg, "model.pad_to") is not None:
        return None
    augmentations = OmegaConf.select(cfg, "dataloader.train.mapper.augmentations")
    if augmentations is None:
        return "the training loader does not say how it resizes images"
    names = [_name(one) for one in augmentations]
    last = max((i for i, name in enumerate(names) if name in _SIZING), default=-1)
    varying = [name for name in names[last + 1 :] if name not in _KEEPING]
    if last >= 0 and not varying:
        return None
    return f"training images have several sizes ({', '.join(varying) or 'nothing resizes them'})"


def _name(augmentation: Any) -> str:
    """The class that a call makes, or that an object is of."""
    target = augmentation.get("_target_") if OmegaConf.is_dict(augmentation) else type(augmentation)
    return target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", str(target))


def _check_compiler(device: torch.device) -> None:
    """Compile next to nothing, so that a missing compiler shows at once and in one line."""
    try:
        torch.compile(torch.sin, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # whatever the compilers raise
        needed = "triton and a C compiler" if device.type == "cuda" else "a C++ compiler (g++, or what CXX names)"
        raise UserError(
            f"train.compile: torch cannot compile for {device.type} here ({_first_line(error)}). "
            f"It needs {needed}; install it, {_OFF}."
        ) from error


def _first_line(error: Exception) -> str:
    """Compilers tell at length."""
    inner = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(inner).__name__


@contextlib.contextmanager
def compile_errors(cfg: DictConfig) -> Iterator[None]:
    """Let what the compiler fails at in the block be one line.

    Raises:
        UserError: in place of the compiler's error.
    """
    if not cfg.train.compile.enabled:
        yield
        return
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise UserError(f"train.compile: the compiler failed ({_first_line(error)}); {_OFF[3:]}.") from error


@contextlib.contextmanager
def not_compiled(cfg: DictConfig) -> Iterator[None]:
    """In the block compiled parts run as they are written: images of an evaluation have other sizes."""
    if not cfg.train.compile.enabled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
