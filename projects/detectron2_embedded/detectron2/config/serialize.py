"""Configs as YAML that loads back."""

import copy
import dataclasses
import enum
import pathlib
from typing import IO, Any

import yaml
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import DictConfig, OmegaConf, SCMode


class _Loader(yaml.SafeLoader):
    """Data, tuples, names of importable objects, members of enums, paths, and dataclasses with their fields.

    Nothing else is called while loading: a file that asks for more is refused.
    """


def _construct_tuple(loader: _Loader, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _locate(name: str, node: yaml.Node) -> Any:
    try:
        return locate(name)
    except ImportError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def _construct_name(_loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    return _locate(suffix, node)


def _construct_dataclass(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    """An instance with the fields of the file; neither `__init__` nor `__post_init__` runs."""
    cls = _locate(suffix, node)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise yaml.constructor.ConstructorError(None, None, f"{suffix} is no dataclass", node.start_mark)
    given = loader.construct_mapping(node, deep=True)
    values = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    values.update(given)
    names = {f.name for f in dataclasses.fields(cls)}
    if values.keys() != names:
        wrong = ", ".join(sorted(map(str, values.keys() ^ names)))
        raise yaml.constructor.ConstructorError(
            None, None, f"fields of {suffix} that are unknown or missing: {wrong}", node.start_mark
        )
    instance = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


def _construct_member_or_path(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    cls = _locate(suffix, node)
    if not (isinstance(cls, type) and issubclass(cls, enum.Enum | pathlib.PurePath)):
        raise yaml.constructor.ConstructorError(
            None, None, f"{suffix} would have to be called, which is not done for a config", node.start_mark
        )
    try:
        return cls(*loader.construct_sequence(node, deep=True))
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _construct_name)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/object:", _construct_dataclass)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/object/apply:", _construct_member_or_path)


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
    # Dataclasses stay what they are, so that a loaded config is built as the saved one was.
    container = OmegaConf.to_container(cfg, resolve=False, structured_config_mode=SCMode.INSTANTIATE)
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
