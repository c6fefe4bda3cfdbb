"""Changes to a model's config that leave its structure: without LoRA, without pretrained weights."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, Node, OmegaConf, open_dict
from torch import nn

from loradet.adapters import lora
from loradet.config.description import is_library_detector


def without_lora(cfg: DictConfig) -> DictConfig:
    """A copy of a model's config whose `lora` calls return the module that they were given, as it was."""
    cfg = _copy(cfg)
    for node in _calls(cfg):
        if _callable(node) is lora:
            with open_dict(node):
                for key in [key for key in node if key not in ("_target_", "module")]:
                    del node[key]
                # The node stays, so that interpolations below it still find their way.
                node._target_ = f"{_unchanged.__module__}.{_unchanged.__qualname__}"
    return cfg


def without_weights(cfg: DictConfig) -> DictConfig:
    """A copy of a model's config that loads no pretrained weights: `pretrained` is False, `weights` files are None.

    `weights` of a detector of transformers also say what its network is: they stay, and `load_weights` is False.
    """
    cfg = _copy(cfg)
    for node in _calls(cfg):
        with open_dict(node):
            if "pretrained" in node:
                node.pretrained = False
            if is_library_detector(node) and node.get("weights") is not None:
                node.load_weights = False
            elif isinstance(node.get("weights"), str):  # Box2BoxTransform has numbers of that name
                node.weights = None
    return cfg


def with_num_classes(cfg: DictConfig, count: int) -> DictConfig:
    """A copy of a model's config in which every `num_classes` that a call works out of the data is a number.

    So the data set need not be there. The call that counts may be written there, or be `data.num_classes`, which the
    model refers to.
    """
    cfg = _copy(cfg)
    for node in _calls(cfg):
        given = node._get_node("num_classes")
        if given is not None and _is_counted(given):
            with open_dict(node):
                node.num_classes = count
    return cfg


def _is_counted(given: Node) -> bool:
    """Whether a node is a call, or refers to one, or to `data` that are not there."""
    # What is below the call may refer to data that are not known: nothing of it is looked at.
    found = given._maybe_dereference_node()
    return found is None or OmegaConf.is_dict(found)


def _copy(cfg: DictConfig) -> DictConfig:
    # A copy of a part alone loses what interpolations point to.
    root = copy.deepcopy(cfg._get_root())
    path = cfg._get_full_key(None)
    return OmegaConf.select(root, path) if path else root


def _callable(node: DictConfig) -> Callable:
    target = node._target_
    return locate(target) if isinstance(target, str) else target


def _unchanged(module: nn.Module) -> nn.Module:
    return module


def _calls(node: Any) -> Iterator[DictConfig]:
    """All nodes with a `_target_`, the outer ones first."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield node
        children = [key for key in node if not OmegaConf.is_missing(node, key) and not _is_reference(node, key)]
    elif isinstance(node, ListConfig):
        children = [i for i in range(len(node)) if not OmegaConf.is_missing(node, i) and not _is_reference(node, i)]
    else:
        return
    for key in children:
        yield from _calls(node[key])


def _is_reference(node: DictConfig | ListConfig, key: str | int) -> bool:
    return OmegaConf.is_interpolation(node, key)
