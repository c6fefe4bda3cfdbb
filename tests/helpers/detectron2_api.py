"""The public interface of the Detectron2 in use, as plain values: names, and the parameters of what can be called."""

import enum
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch

# Parts of the package that are projects of their own.
NOT_WALKED = ("detectron2.projects", "detectron2.model_zoo.configs")


def interface() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Every public module with its public functions and classes; and the modules that cannot be imported, with why."""
    modules, failed = {}, {}
    for name in module_names():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            failed[name] = str(error.__cause__ or error)
            continue
        if found := {key: describe(value) for key, value in public_names(module).items()}:
            modules[name] = found
    return modules, failed


def module_names() -> list[str]:
    """Dotted names of the package and of all public modules below it, found by their files."""
    package = importlib.import_module("detectron2")
    names = ["detectron2"]
    for found in pkgutil.walk_packages(package.__path__, "detectron2.", onerror=str):
        private = any(part.startswith("_") for part in found.name.split("."))
        if not private and not found.name.startswith(NOT_WALKED):
            names.append(found.name)
    return sorted(names)


def public_names(module: ModuleType) -> dict[str, Any]:
    """Functions and classes without a leading underscore that a module defines, lists, or (a package) re-exports.

    What it merely imports for its own use is not among them.
    """
    listed = set(getattr(module, "__all__", ()))
    is_package = hasattr(module, "__path__")
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        home = getattr(value, "__module__", None) or ""
        if home == module.__name__ or name in listed or (is_package and home.startswith("detectron2.")):
            found[name] = value
    return found


def describe(value: Any) -> dict[str, Any]:
    """Of a function its parameters; of a class those of its constructor, and its public methods.

    What a class has from a base of another library is left out: it is that library's, and changes with its version.
    """
    if not inspect.isclass(value):
        try:
            return {"function": parameters(value)}
        except ValueError:  # a builtin that does not say how it is called
            return {"function": None}
    if issubclass(value, enum.Enum):
        return {"members": list(value.__members__)}
    makers = [base for base in value.__mro__ if {"__init__", "__new__"} & vars(base).keys()]
    found: dict[str, Any] = {}
    if makers[0] is object or makers[0].__module__.startswith("detectron2"):
        found["class"] = parameters(value)
    own = [base for base in value.__mro__ if base.__module__.startswith("detectron2")]
    names = sorted({name for base in own for name in vars(base) if not name.startswith("_")})
    found["methods"] = {name: kind for name in names if (kind := method(value, name)) is not None}
    return found


def method(cls: type, name: str) -> list[str] | str | None:
    """Parameters of a method, without `self`, behind a word for a class's or a static one; "property"; else None."""
    value = inspect.getattr_static(cls, name, None)
    if isinstance(value, property):
        return "property"
    if isinstance(value, (classmethod, staticmethod)):
        return [f"@{type(value).__name__}", *parameters(getattr(cls, name))]
    if inspect.isfunction(value):
        return parameters(value)[1:]
    return None


def parameters(function: Callable[..., Any]) -> list[str]:
    """One text for each parameter, as a `def` has them: `a`, `b=1`, `*args`, `**kwargs`, and the marks `/` and `*`."""
    found, mark = [], None
    for parameter in inspect.signature(function).parameters.values():
        if mark == "/" and parameter.kind is not parameter.POSITIONAL_ONLY:
            found.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and mark != "*":
            found.append("*")
        mark = {parameter.POSITIONAL_ONLY: "/", parameter.KEYWORD_ONLY: "*", parameter.VAR_POSITIONAL: "*"}.get(
            parameter.kind
        )
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={plain(parameter.default)}"
        found.append(f"{stars}{parameter.name}{default}")
    return found + ["/"] * (mark == "/")


def plain(value: Any) -> str:
    """A default as text that is the same in every process and version of Python."""
    if isinstance(value, enum.IntEnum):
        return str(int(value))
    if isinstance(value, enum.Enum):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, timedelta, torch.dtype, torch.device)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(plain, value)) + "," * (isinstance(value, tuple) and len(value) == 1)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(key)}: {plain(item)}" for key, item in value.items()) + "}"
    return getattr(value, "__qualname__", None) or f"<{type(value).__name__}>"
