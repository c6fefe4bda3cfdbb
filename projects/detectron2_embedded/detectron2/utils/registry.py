"""Registries of classes by name, and objects by dotted path."""

import importlib
from typing import Any

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str) -> Any:
    """The object at a dotted path such as `package.module.Class.method`.

    Raises:
        ImportError: no module or attribute of that path exists. Errors inside imported modules pass through.
    """
    parts = name.split(".")
    if not all(parts):
        raise ImportError(f"Cannot locate {name!r}: a dotted path such as 'package.module.Name' is expected.")
    found, depth = _import_longest(parts)
    for i in range(depth, len(parts)):
        try:
            found = getattr(found, parts[i])
        except AttributeError:
            parent = ".".join(parts[:i])
            raise ImportError(f"Cannot locate {name!r}: {parent!r} has no attribute {parts[i]!r}.") from None
    return found


def _import_longest(parts: list[str]) -> tuple[Any, int]:
    """The module of the longest importable prefix of `parts`, and the number of parts that it takes."""
    module, depth = None, 0
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        if module is not None and hasattr(module, parts[i - 1]) and not hasattr(module, "__path__"):
            break
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            # A module that exists but misses one of its own imports must not look like a wrong path.
            if error.name is None or not (path == error.name or path.startswith(error.name + ".")):
                raise
            break
        depth = i
    if module is not None:
        return module, depth
    builtins = importlib.import_module("builtins")
    if hasattr(builtins, parts[0]):
        return builtins, 0
    raise ImportError(f"Cannot locate {'.'.join(parts)!r}: no module is named {parts[0]!r}.")


def _convert_target_to_string(t: Any) -> str:
    """The shortest dotted path that leads to a class or function, so that saved configs show public names."""
    module, qualname = t.__module__, t.__qualname__
    packages = module.split(".")
    for k in range(1, len(packages)):
        candidate = ".".join([*packages[:k], qualname])
        try:
            if locate(candidate) is t:
                return candidate
        except ImportError:
            continue
    return f"{module}.{qualname}"
