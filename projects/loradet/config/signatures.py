"""Signatures of the callables in a config: argument names, with type hints."""

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loradet.config.hints import Built

_NORM = str | Callable | None
# Detectron2 states the types of few of its arguments. What it documents of the others, where no default shows it.
_OF_DETECTRON2: dict[str, Any] = {
    "anchor_generator": Built,
    "anchor_matcher": Built,
    "aspect_ratios": Sequence,
    "batch_size_per_image": int,
    "block_class": Any,
    "bottom_up": Built,
    "box2box_transform": Built,
    "conv_norm": _NORM,
    "crop_size": Sequence[int],
    "dataset": Sequence | Built,
    "dataset_name": str | None,
    "depth": int,
    "evaluators": Sequence,
    "freeze_at": int,
    "head_in_features": Sequence[str] | None,
    "in_channels": int,
    "in_feature": str,
    "in_features": Sequence[str],
    "input_shape": Any,
    "intensity_max": float,
    "intensity_min": float,
    "interp": Any,
    "kpt_oks_sigmas": Sequence[float],
    "mapper": Built | None,
    "max_size": int,
    "net": Built,
    "norm": _NORM,
    "num_anchors": int,
    "num_classes": int,
    "num_workers": int,
    "out_channels": int,
    "out_features": Sequence[str] | None,
    "output_size": int | Sequence[int],
    "pixel_mean": Sequence[float],
    "pixel_std": Sequence[float],
    "pooler_type": str,
    "positive_fraction": float,
    "proposal_generator": Built | None,
    "proposal_matcher": Built,
    "residual_block_indexes": Sequence[int],
    "sampling_ratio": int,
    "scale_factors": Sequence[float],
    "scales": Sequence[float],
    "shape": int | Sequence[int],
    "short_edge_length": int | Sequence[int],
    "sizes": Sequence,
    "stages": Sequence,
    "stem": Built,
    "strides": Sequence,
    "top_block": Built | None,
    "total_batch_size": int,
    "window_block_indexes": Sequence[int],
}


@dataclass(frozen=True)
class Signature:
    """Arguments by name with their hints (`Any` where nothing is known), and whether others are taken too."""

    name: str
    hints: dict[str, Any]
    is_open: bool


@functools.cache
def signature_of(target: Callable) -> Signature | None:
    """What a callable takes, by its annotations, else by its defaults; None where Python cannot tell."""
    name = getattr(target, "__qualname__", type(target).__name__).removesuffix(".__init__")
    hints: dict[str, Any] = {}
    for function in _passed_on(target):
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return None
        stated = _stated_hints(function)
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                hints.setdefault(parameter.name, _hint(function, parameter, stated))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return Signature(name, hints, is_open=False)
    return Signature(name, hints, is_open=True)


def _passed_on(target: Callable) -> list[Callable]:
    """The callable and, of Detectron2's classes, those that get what it takes as `**kwargs`."""
    if not isinstance(target, type):
        return [target]
    parents = [one for one in target.__mro__[1:] if is_of_detectron2(one) and "__init__" in vars(one)]
    return [target, *(parents if is_of_detectron2(target) else [])]


def is_of_detectron2(thing: Any) -> bool:
    """Whether a class or function is Detectron2's own; those of config files, which it runs under its name, are not."""
    module = getattr(thing, "__module__", None) or ""
    return module.startswith("detectron2.") and not module.startswith("detectron2._cfg_loader")


def _stated_hints(function: Callable) -> dict[str, Any]:
    stating = function
    if isinstance(function, type):
        stating = function.__init__ if function.__init__ is not object.__init__ else function.__new__
    try:
        return typing.get_type_hints(stating)
    except (NameError, TypeError, AttributeError, SyntaxError):  # a name that only a type checker sees
        return {}


def _hint(function: Callable, parameter: inspect.Parameter, stated: dict[str, Any]) -> Any:
    if is_of_detectron2(function) and parameter.name in _OF_DETECTRON2:
        hint = _OF_DETECTRON2[parameter.name]
    elif parameter.annotation is not parameter.empty:
        hint = stated.get(parameter.name, Any)
    else:
        hint = _hint_of_default(parameter.default, exact=is_of_detectron2(function))
    return hint | None if parameter.default is None and hint is not Any and _takes_or(hint) else hint


def _takes_or(hint: Any) -> bool:
    return isinstance(hint, type) or typing.get_origin(hint) is not None


def _hint_of_default(default: Any, *, exact: bool) -> Any:
    """The type of a default. Elsewhere than in Detectron2 a number may stand for a list of them, or for a fraction."""
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return type(default) if exact else float | Sequence
    return Any
