"""Configs as text: YAML that loads back, and Python-like lines for people."""

import copy
from collections.abc import Iterator
from typing import IO, Any

import yaml
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, ListConfig, OmegaConf

LINE_LENGTH = 100


class _Loader(yaml.SafeLoader):
    """Data, tuples and names of importable objects; nothing is called while loading."""


def _construct_tuple(loader: _Loader, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _construct_name(_loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    try:
        return locate(suffix)
    except ImportError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _construct_name)


def load_yaml(text: str | IO[str]) -> Any:
    """Read YAML as `dump_yaml` writes it.

    Raises:
        yaml.YAMLError: broken YAML, or a tag that would run code.
    """
    return yaml.load(text, Loader=_Loader)


def dump_yaml(cfg: DictConfig) -> tuple[str, bool]:
    """YAML text of a config, interpolations kept, and whether reading it gives the same calls and values.

    Raises:
        yaml.YAMLError, TypeError, ValueError: some value has no form in YAML.
    """
    container = OmegaConf.to_container(cfg, resolve=False)
    problems: list[str] = []
    text = yaml.dump(_with_named_targets(container, problems), default_flow_style=None, allow_unicode=True, width=9999)
    if problems:
        return text, False
    try:
        load_yaml(text)
    except yaml.YAMLError:
        return text, False
    return text, True


def _with_named_targets(node: Any, problems: list[str]) -> Any:
    """Copy with dotted paths for callable `_target_`s; `problems` gets those that lead nowhere."""
    if isinstance(node, list):
        return [_with_named_targets(item, problems) for item in node]
    if not isinstance(node, dict):
        return node
    named = {key: _with_named_targets(value, problems) for key, value in node.items()}
    target = named.get("_target_")
    if callable(target) and hasattr(target, "__qualname__"):
        name = named["_target_"] = _convert_target_to_string(target)
        if not _leads_to(name, target):
            problems.append(name)
    return named


def _leads_to(name: str, target: Any) -> bool:
    try:
        # Bound methods are made anew at every access: equal, never identical.
        return locate(name) == target
    except ImportError:
        return False


def pickle_config(cfg: DictConfig, file: IO[bytes]) -> None:
    """Write a config with everything in it, functions of config files included."""
    import cloudpickle

    cloudpickle.dump(copy.deepcopy(cfg), file)


def python_lines(cfg: DictConfig, prefix: str) -> Iterator[str]:
    """One assignment for each call, list or value of a config."""
    for key in cfg:
        node = cfg._get_node(key)
        value = _raw(cfg, key)
        if isinstance(value, dict) and value and "_target_" not in value:
            yield from python_lines(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {_expression(value, 0, len(prefix) + len(str(key)) + 3)}"


def _raw(parent: DictConfig | ListConfig, key: Any) -> Any:
    """A child as plain containers, interpolations as their text."""
    node = parent._get_node(key)
    if OmegaConf.is_config(node) and not node._is_none() and not node._is_interpolation():
        return OmegaConf.to_container(node, resolve=False)
    return node._value()


def _expression(value: Any, indent: int, column: int) -> str:
    """Python text of a value; a call or container that does not fit the line gets a line for each part."""
    if isinstance(value, dict) and "_target_" in value:
        target = value["_target_"]
        head = target if isinstance(target, str) else _name(target)
        parts = [(f"{k}=", v) for k, v in value.items() if k != "_target_"]
        opening, closing = f"{head}(", ")"
    elif isinstance(value, dict):
        parts = [(f"{k!r}: ", v) for k, v in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, list):
        parts = [("", v) for v in value]
        opening, closing = "[", "]"
    else:
        return _name(value) if callable(value) and hasattr(value, "__qualname__") else repr(value)
    flat = opening + ", ".join(head + _expression(v, 0, -(10**6)) for head, v in parts) + closing
    if column + len(flat) <= LINE_LENGTH or not parts:
        return flat
    pad = " " * (indent + 4)
    body = "".join(f"{pad}{head}{_expression(v, indent + 4, len(pad) + len(head))},\n" for head, v in parts)
    return f"{opening}\n{body}{' ' * indent}{closing}"


def _name(target: Any) -> str:
    return _convert_target_to_string(target)
