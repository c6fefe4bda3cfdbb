"""Type hints against values of a config: whether a value fits, and what is expected in words."""

import collections.abc
import enum
import math
import numbers
import os
import types
import typing
from typing import Any

import torch

UNKNOWN = object()  # a value that is built, or given, later: it fits everything


class Built:
    """Hint of an argument that is an object built by another call, of whatever class."""


_PLAIN = (types.NoneType, bool, int, float, str, list, tuple, dict)
_WORDS = {
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    types.NoneType: ("null", "nulls"),
}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that was read from text may be given where a type hint says what is taken.

    A hint that says nothing of plain values (a type variable, a class of another library) is met by all of them, and
    an object that is no plain value meets every hint.
    """
    if value is UNKNOWN or hint in (Any, object) or not isinstance(value, _PLAIN):
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in typing.get_args(hint))
    if origin is typing.Annotated:
        return fits(value, typing.get_args(hint)[0])
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    kind = types.NoneType if hint is None else origin or hint
    if not isinstance(kind, type):
        return True
    if kind in _WORDS or issubclass(kind, numbers.Number):
        return _is_scalar(value, kind)
    if _is_sequence(kind):
        return isinstance(value, list | tuple) and _items_fit(value, hint)
    return _fits_class(value, kind)


def _is_scalar(value: Any, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if isinstance(value, bool):
        return False
    if isinstance(value, float) and math.isnan(value):
        return False  # nothing takes it, and all that compares with it is silent
    return isinstance(value, int | float if kind is float else kind)


def _is_sequence(kind: type) -> bool:
    if issubclass(kind, collections.abc.Mapping | str | bytes):
        return False
    return kind in (list, tuple, set, frozenset, collections.abc.Iterable) or (
        kind.__module__ == "collections.abc" and issubclass(kind, collections.abc.Iterable)
    )


def _items_fit(value: list | tuple, hint: Any) -> bool:
    inner = typing.get_args(hint)
    if not inner:
        return True
    if typing.get_origin(hint) is tuple and len(inner) > 1 and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(item, inner[0]) for item in value)


def item_hint(hint: Any) -> Any:
    """The hint of what a list holds, where a hint takes lists of one kind; else Any."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [one for one in map(item_hint, inner) if one is not Any]
        return found[0] if len(found) == 1 else Any
    one_kind = isinstance(origin, type) and _is_sequence(origin) and len({*inner} - {Ellipsis}) == 1
    return inner[0] if one_kind else Any


def _fits_class(value: Any, kind: type) -> bool:
    if issubclass(kind, collections.abc.Mapping):
        return isinstance(value, dict)
    if kind is collections.abc.Callable or kind is type:
        return isinstance(value, str | dict)
    if issubclass(kind, os.PathLike):
        return isinstance(value, str)
    if issubclass(kind, enum.Enum):
        return True
    ours = kind.__module__.startswith(("detectron2.", "loradet."))
    # Other libraries' classes are sometimes made of texts and numbers, as torch.device is.
    return isinstance(value, dict) or not (ours or issubclass(kind, torch.nn.Module | torch.Tensor))


def describe_hint(hint: Any, *, plural: bool = False) -> str:
    """What a hint takes: "a whole number", "a list of texts or null"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # A tensor is nothing to write into a config.
        return " or ".join(dict.fromkeys(describe_hint(one, plural=plural) for one in inner if one is not torch.Tensor))
    if origin is typing.Annotated:
        return describe_hint(inner[0], plural=plural)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    kind = types.NoneType if hint is None else origin or hint
    if kind in _WORDS:
        return _WORDS[kind][plural]
    if not isinstance(kind, type):
        return "something else"
    if _is_sequence(kind):
        return f"{'lists' if plural else 'a list'}{_of_items(kind, inner)}"
    if issubclass(kind, os.PathLike):
        return "paths" if plural else "a path"
    if kind in (collections.abc.Callable, type):
        return "functions" if plural else "a function"
    if kind is Built:
        return "objects that calls build" if plural else "an object that a call builds"
    return f"{'objects' if plural else 'an object'} of class {kind.__name__}"


def _of_items(kind: type, inner: tuple) -> str:
    if not inner or inner[0] in (Any, object) or isinstance(inner[0], typing.TypeVar):
        return ""
    count = f"{len(inner)} " if kind is tuple and len(inner) > 1 and inner[-1] is not Ellipsis else ""
    return f" of {count}{describe_hint(inner[0], plural=True)}"
