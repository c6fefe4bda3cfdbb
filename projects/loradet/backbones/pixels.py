"""What a backbone's weights expect of an image's values, compared with what the detector makes of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from loradet.errors import UserError

# Of ImageNet, 0 to 255, in RGB: what torchvision, timm and most others train with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

_TOLERANCE = 0.5  # of 255: 124, 116, 104 are ImageNet's mean too


def check_pixels(model: nn.Module) -> None:
    """Compare a detector's `pixel_mean` and `pixel_std` with what its backbone states of itself.

    A backbone states them by attributes of these names, 0 to 255, in RGB; one that has none is taken as it is, and so
    is one for another number of channels. Those of a detector with `input_format="BGR"` are compared in reverse.

    Raises:
        UserError: they differ by more than half a grey value; both are named.
    """
    own = _statistics(model)
    backbone = getattr(model, "backbone", None)
    if own is None or not isinstance(backbone, nn.Module):
        return
    is_bgr = getattr(model, "input_format", None) == "BGR"
    for part in backbone.modules():
        stated = _statistics(part)
        if stated is None or [len(values) for values in stated] != [len(values) for values in own]:
            continue
        right = [values[::-1] if is_bgr else values for values in stated]
        if all(abs(a - b) <= _TOLERANCE for mine, its in zip(own, right) for a, b in zip(mine, its)):
            continue
        name = getattr(part, "model_name", None) or type(part).__name__.removeprefix("Frozen")
        mine, its = (f"pixel_mean={_words(mean)} and pixel_std={_words(std)}" for mean, std in (own, right))
        raise UserError(
            f"The model has {mine}, but the backbone {name} expects {its} ({'BGR' if is_bgr else 'RGB'}, 0 to 255). "
            "Set model.pixel_mean and model.pixel_std so; train.allow_other_pixel_statistics=True trains as it is."
        )


def _statistics(module: nn.Module) -> tuple[list[float], list[float]] | None:
    """`pixel_mean` and `pixel_std` of a module, flat; None where it has not both."""
    found = [_numbers(getattr(module, name, None)) for name in ("pixel_mean", "pixel_std")]
    return None if None in found else (found[0], found[1])


def _numbers(values: torch.Tensor | Sequence[float] | Any) -> list[float] | None:
    if isinstance(values, torch.Tensor):
        return [float(value) for value in values.flatten()]
    return [float(value) for value in values] if isinstance(values, list | tuple) else None


def _words(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:.6g}' for value in values)}]"
