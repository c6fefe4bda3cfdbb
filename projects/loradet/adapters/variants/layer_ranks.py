"""Rank and alpha of each layer: the common ones, and others by pattern."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from loradet.adapters.layer import is_under
from loradet.adapters.matching import match_names
from loradet.errors import UserError

Value = TypeVar("Value", int, float)


def by_layer(
    layers: Sequence[str], paths: Sequence[str], default: Value, patterns: Mapping[str, Value] | None, argument: str
) -> dict[str, Value]:
    """The value of each layer.

    Args:
        layers: paths of what is wrapped.
        paths: of all modules.
        default: of a layer that no pattern names.
        patterns: `stages_3` (as `unfreeze`: a module with all below it) or `re:…` → value; the first that names a
            layer holds for it.
        argument: what the caller's user calls the patterns, for messages.

    Raises:
        UserError: a pattern names no module, or nothing that is wrapped.
    """
    values: dict[str, Value] = {}
    for pattern, value in (patterns or {}).items():
        modules = match_names([pattern], paths, argument=argument)[pattern]
        named = [layer for layer in layers if any(is_under(layer, module) for module in modules)]
        if not named:
            raise UserError(f"{argument}: {pattern!r} names {modules[0]}, in which nothing is wrapped by `targets`.")
        if not (new := [layer for layer in named if layer not in values]):
            raise UserError(f"{argument}: {pattern!r} names only layers that an earlier pattern names; put it first.")
        values.update(dict.fromkeys(new, value))
    return {layer: values.get(layer, default) for layer in layers}
