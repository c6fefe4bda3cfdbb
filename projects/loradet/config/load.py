"""From a config file and overrides to a config that is complete."""

import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig

from loradet.config.augment import KEY as AUGMENT
from loradet.config.augment import add_key, choose_augmentations, forget_edited
from loradet.config.calls import check_calls
from loradet.config.class_count import check_class_count, complete_class_count
from loradet.config.library import find_config
from loradet.config.overrides import apply_overrides, typed_keys
from loradet.config.settings import complete_train_settings
from loradet.config.splits import fill_in_evaluated_data
from loradet.config.trust import check_trusted, is_yaml
from loradet.errors import UserError, one_line


def load_config(file: str, overrides: list[str], *, trusted: bool = False, needs_data: bool = True) -> DictConfig:
    """Load a config, fill the `train` keys that it does not name, and apply command-line overrides.

    Args:
        file: a file, or the name of one of the project's own, see `find_config`.
        overrides: `key=value` words.
        trusted: let a .yaml name calls of any package; else those that `loradet.config.trust` knows.
        needs_data: whether the caller reads data (see `loradet.config.unread`).

    Raises:
        FileNotFoundError: no such file; the nearest names are listed.
        ValueError: a syntax error, a name that the file does not know, an unknown key in `train` or in an override, an
            argument that what is called does not take, a value of another type than it takes, or a .yaml that is not
            trusted with what it would call.
    """
    file = str(find_config(file))
    if not trusted:
        check_trusted(file)
    try:
        cfg = LazyConfig.load(file)
    except SyntaxError as error:
        raise UserError(_syntax_error(error, file)) from error
    except yaml.YAMLError as error:
        raise UserError(f"Config file {file} is broken: {one_line(error)}.") from error
    except (NameError, AttributeError, TypeError, LookupError, AssertionError, ImportError) as error:
        raise UserError(
            f"Config file {_innermost_config(error, file)}: {type(error).__name__}: {one_line(error)}."
        ) from error
    return complete(cfg, overrides, needs_data=needs_data, from_run=is_yaml(file))


def complete(
    cfg: DictConfig, overrides: Sequence[str], *, needs_data: bool = True, from_run: bool = False
) -> DictConfig:
    """What `load_config` does with a config that has been read, in place; returns it.

    Args:
        from_run: it is one that a run has saved.

    Raises:
        UserError: as `load_config`.
    """
    complete_train_settings(cfg)
    complete_class_count(cfg)
    # The list of a preset is there before an override changes it.
    of_preset = [word for word in overrides if typed_keys([word]) == {AUGMENT}]
    if of_preset:
        add_key(cfg)
        apply_overrides(cfg, [word.lstrip("+") for word in of_preset], needs_data=needs_data)
    choose_augmentations(cfg, asked=bool(of_preset), from_run=from_run)
    apply_overrides(cfg, [word for word in overrides if word not in of_preset], needs_data=needs_data)
    forget_edited(cfg, typed_keys(overrides))
    complete_train_settings(cfg)
    _expand_home(cfg.train)
    check_calls(cfg, typed_keys(overrides))
    check_class_count(cfg)
    fill_in_evaluated_data(cfg)
    return cfg


def _expand_home(train: DictConfig) -> None:
    """`~` in the two paths of `train`; what reads data and weights expands its own."""
    for key in ("output_dir", "init_checkpoint"):
        if (path := train[key]) and path.startswith("~"):
            train[key] = os.path.expanduser(path)  # noqa: PTH111 (which raises where there is no home)


def _syntax_error(error: SyntaxError, file: str) -> str:
    # Detectron2 wraps the error that knows the line in one that names the file.
    inner = error.__cause__ if error.lineno is None and isinstance(error.__cause__, SyntaxError) else error
    names = [inner.filename, *re.findall(r"^Config file (.+) has ", str(error)), file]
    named = next((name for name in names if name is not None and Path(name).is_file()), file)
    return f"Config file {named}, line {inner.lineno}: {inner.msg}."


def _innermost_config(error: BaseException, file: str) -> str:
    """File and line of the config (the file or one that it imports) in which an error arose."""
    # A config runs as a module of its own; the line that called whatever failed is the one to look at.
    modules = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    ours = [frame for frame in modules if Path(frame.filename).is_file() and "site-packages" not in frame.filename]
    return f"{ours[-1].filename}, line {ours[-1].lineno}" if ours else file
