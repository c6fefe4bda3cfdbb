"""Builds the objects that a config describes."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["instantiate"]

logger = logging.getLogger(__name__)


def instantiate(cfg: Any) -> Any:
    """Call what `_target_` names with the other keys as arguments, inner configs first.

    A mapping without `_target_` comes back as it is, whatever lies inside it. A plain list or a ListConfig
    comes back as the same kind with its items built. Anything else comes back as it is.

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
    if isinstance(cfg, DictConfig) and _is_structured(cfg):
        return OmegaConf.to_object(cfg)
    if isinstance(cfg, Mapping) and "_target_" in cfg:
        return _call(cfg)
    return cfg


def _is_structured(cfg: DictConfig) -> bool:
    object_type = cfg._metadata.object_type
    return isinstance(object_type, type) and object_type is not dict and "_target_" not in cfg


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
