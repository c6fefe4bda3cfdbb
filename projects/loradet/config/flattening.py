"""Nested configs as flat tables, to be compared key by key."""

from collections.abc import Callable
from typing import Any


def flatten(node: Any, leaf: Callable[[Any], Any] = lambda value: value, key: str = "") -> dict[str, Any]:
    """Dotted key -> value of plain dicts and lists; an empty one, and a list of plain values, is a value.

    Args:
        leaf: is applied to every value.
        key: of the node itself.
    """
    flat: dict[str, Any] = {}
    _fill(flat, node, leaf, key)
    return flat


def _fill(flat: dict[str, Any], node: Any, leaf: Callable[[Any], Any], key: str) -> None:
    if isinstance(node, dict) and node:
        parts = node.items()
    elif isinstance(node, list) and any(isinstance(inner, dict | list) for inner in node):
        parts = enumerate(node)
    else:
        flat[key] = leaf(node)
        return
    for name, inner in parts:
        _fill(flat, inner, leaf, f"{key}.{name}" if key else str(name))
