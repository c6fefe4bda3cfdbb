"""Builds the objects that a config describes."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["dump_dataclass", "instantiate"]

logger = logging.getLogger(__name__)


def dump_dataclass(obj: Any) -> dict[str, Any]:
    """A dataclass instance as a dict that `instantiate` builds again; so are those in its fields.

    Args:
        obj: the instance; its tuples become lists.

    Raises:
        AssertionError: it is no instance of a dataclass.
    """
    assert _is_instance_of_dataclass(obj), f"dump_dataclass takes an instance of a dataclass, not {obj!r}."
    fields = {field.name: _dump_field(getattr(obj, field.name)) for field in dataclasses.fields(obj)}
    return {"_target_": _convert_target_to_string(type(obj)), **fields}


def _dump_field(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [dump_dataclass(item) if _is_instance_of_dataclass(item) else item for item in value]
    return dump_dataclass(value) if _is_instance_of_dataclass(value) else value


def _is_instance_of_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def instantiate(cfg: Any) -> Any:
    """Call what `_target_` names with the other keys as arguments, inner configs first.

    A mapping without `_target_` comes back as it is, whatever lies inside it. A plain list or a ListConfig
    comes back as the same kind with its items built. A dataclass instance that was put into a config, which
    omegaconf keeps as a structured config, becomes the instance again. Anything else comes back as it is.

    Args:
        cfg: result of `LazyCall(...)(...)`, a mapping with `_target_` (callable or dotted path), or a list of
            such.

    Raises:
        ImportError: `_target_` is a path that leads to nothing.
        AssertionError: `_target_` leads to something that cannot be called.
        Exception: whatever the call raises; for a TypeError the call is logged as well.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, Mapping) and "_target_" in cfg:
        return _call(cfg)
    return cfg


def _call(cfg: Mapping[str, Any]) -> Any:
    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = instantiate(arguments.pop("_target_"))
    name = target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))
    if isinstance(target, str):
        target = locate(target)
    assert callable(target), f"_target_ {name!r} is {type(target).__name__} {target!r}, which cannot be called."
    try:
        return target(**arguments)
    except TypeError:
        logger.error("Building %s failed; its arguments were: %s.", name, ", ".join(arguments) or "none")
        raise
