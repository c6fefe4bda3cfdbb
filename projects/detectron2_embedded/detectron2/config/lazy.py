"""`LazyCall` describes a call instead of making it; `LazyConfig` reads, changes and writes configs."""

import dataclasses
import itertools
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config.files import run_config_file, to_config
from detectron2.config.python_text import python_text
from detectron2.config.serialize import dump_yaml, load_yaml, pickle_config
from detectron2.utils.file_io import PathManager, replace_file
from detectron2.utils.registry import _convert_target_to_string
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["LazyCall", "LazyConfig"]

logger = logging.getLogger(__name__)


class LazyCall:
    """Wraps a callable so that calling it gives a config of the call, for `instantiate`.

    `LazyCall(torch.nn.Linear)(in_features=3, out_features=4)` is a DictConfig with these two keys and
    `_target_`.

    Args:
        target: a callable, its dotted path, or the config of a call that gives a callable.

    Raises:
        TypeError: it is none of these.
    """

    def __init__(self, target: Callable | str | Mapping):
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(
                f"LazyCall takes a callable, dotted path or config, not {type(target).__name__}: {target!r}."
            )
        self._target = target

    def __call__(self, **kwargs: Any) -> DictConfig:
        target = self._target
        if dataclasses.is_dataclass(target):
            # omegaconf would take the class for a schema of values.
            target = _convert_target_to_string(target)
        return DictConfig(content={**kwargs, "_target_": target}, flags={"allow_objects": True})


class LazyConfig:
    """Reads, changes and writes lazy configs."""

    @staticmethod
    def load(filename: str | os.PathLike, keys: str | tuple[str, ...] | None = None) -> Any:
        """Read a config file.

        Args:
            filename: a .py file, which is run, or a .yaml file.
            keys: a name, or a tuple of names, to take out of it.

        Returns:
            Without `keys` a DictConfig of the whole .yaml file, or of all dicts and configs at the top level
            of the .py file whose names do not start with `_`; with `keys` that object, or a tuple of them.

        Raises:
            ValueError: another kind of file, or broken YAML.
            SyntaxError: broken Python; file and line are in the message.
            KeyError: the file has no such name.
        """
        path = os.fspath(filename)
        extension = Path(path).suffix
        if extension == ".py":
            content = run_config_file(path)
        elif extension in (".yaml", ".yml"):
            content = _read_yaml(path)
        else:
            raise ValueError(f"Config file {path}: a .py, .yaml or .yml file is expected.")
        if keys is None:
            return content if OmegaConf.is_config(content) else _configs(content)
        if isinstance(keys, str):
            return to_config(_pick(content, keys, path))
        return tuple(to_config(_pick(content, key, path)) for key in keys)

    @staticmethod
    def load_rel(filename: str | os.PathLike, keys: str | tuple[str, ...] | None = None) -> Any:
        """Like `load`, with `filename` relative to the file that holds this call.

        Raises:
            AssertionError: the call is in no file.
        """
        caller = sys._getframe(1).f_code.co_filename
        assert not caller.startswith("<"), (
            f"LazyConfig.load_rel({filename!r}) was not called from a file; use LazyConfig.load."
        )
        # No Path: what PathManager reads may be a URL.
        return LazyConfig.load(os.path.join(os.path.dirname(caller), filename), keys)  # noqa: PTH118, PTH120

    @staticmethod
    def save(cfg: DictConfig, filename: str | os.PathLike) -> None:
        """Write a config as YAML that `load` reads; callables become dotted paths.

        What YAML cannot hold (a function of the config file itself, say) is written in a readable form all
        the same, and a cloudpickle of the whole is left beside it as `<filename>.pkl`, with a warning.
        """
        path = os.fspath(filename)
        try:
            text, faithful = dump_yaml(cfg)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            logger.warning("The config cannot be written as YAML to %s: %s", path, error)
            faithful = False
        else:
            with replace_file(path) as file:
                file.write(text)
        if not faithful:
            logger.warning(
                "%s cannot be loaded: the config holds objects without an importable name. All is in %s.pkl.",
                path,
                path,
            )
            with replace_file(f"{path}.pkl", "wb") as file:
                pickle_config(cfg, file)

    @staticmethod
    def apply_overrides(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
        """Change a config in place by strings in hydra's override grammar.

        `a.b=1`, `a.b=[1,2]`, `a.b={c:x}` (merged), `a.b='x y'`; a key that does not exist is added, with or
        without `+`.

        Returns:
            The same config.

        Raises:
            KeyError: a key leads through a value that is no config.
            NotImplementedError: `~key` (deletion).
            ValueError: a sweep (`key=1,2`).
            hydra.errors.OverrideParseException: a string that the grammar does not have.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser

        for override in OverridesParser.create().parse_overrides(list(overrides)):
            text = override.input_line
            if override.is_delete():
                raise NotImplementedError(f"Override {text!r}: keys cannot be deleted; set the key to null instead.")
            if override.is_sweep_override():
                raise ValueError(f"Override {text!r} lists several values; write a list as key=[a,b].")
            _update(cfg, override.key_or_group, override.value())
        return cfg

    @staticmethod
    def to_py(cfg: DictConfig, prefix: str = "cfg.") -> str:
        """The config as Python-like text for people to read: one assignment for each call or value.

        Interpolations are resolved, names sorted, and lines laid out as the formatter black does it.

        Args:
            cfg: a loaded config.
            prefix: put before every name.

        Raises:
            omegaconf.errors.InterpolationResolutionError: an interpolation leads to nothing.
        """
        return python_text(OmegaConf.to_container(cfg, resolve=True), prefix)


def _configs(content: Mapping[str, Any]) -> DictConfig:
    """Those names of a config file that are configs: not its modules, functions, numbers and plain lists."""
    found = {
        name: value
        for name, value in content.items()
        if isinstance(value, DictConfig | ListConfig | dict) and not name.startswith("_")
    }
    return DictConfig({name: to_config(value) for name, value in found.items()}, flags={"allow_objects": True})


def _read_yaml(path: str) -> DictConfig | ListConfig:
    with PathManager.open(path) as file:
        try:
            content = load_yaml(file)
        except yaml.YAMLError as error:
            raise ValueError(f"Config file {path} is broken: {error}") from error
    if not isinstance(content, dict | list):
        kind = "nothing" if content is None else type(content).__name__
        raise ValueError(f"Config file {path}: a mapping or a list is expected at the top, found {kind}.")
    return OmegaConf.create(content, flags={"allow_objects": True})


def _pick(content: Mapping[str, Any] | ListConfig, key: str, path: str) -> Any:
    if isinstance(content, ListConfig):
        raise KeyError(f"Config file {path} is a list, so it has no {key!r}.")
    if key not in content.keys():  # noqa: SIM118 ("in" of omegaconf passes over ???)
        names = sorted(str(name) for name in content if not str(name).startswith("_"))
        raise KeyError(f"Config file {path} has no {key!r}; it has: {', '.join(names) or 'nothing'}.")
    return content[key]


def _update(cfg: DictConfig, key: str, value: Any) -> None:
    """Set a value, with configs made on the way to it; what has no keys does not become a config."""
    *parents, _ = key.split(".")
    for prefix in itertools.accumulate(parents, "{}.{}".format):
        parent = OmegaConf.select(cfg, prefix, default=None)
        if parent is None:
            break
        if not OmegaConf.is_config(parent):
            raise KeyError(f"Override of {key!r}: {prefix!r} is {type(parent).__name__} {parent!r}, which has no keys.")
    OmegaConf.update(cfg, key, value, merge=True)
