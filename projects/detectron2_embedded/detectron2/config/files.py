"""Runs config files: plain Python whose relative imports lead to other config files, not to packages."""

import builtins
import itertools
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

# Names of modules that no importer knows: cloudpickle then carries their functions along instead.
_run_numbers = itertools.count()


def to_config(value: Any) -> Any:
    """A dict as a DictConfig that may hold any object; anything else as it is."""
    return DictConfig(value, flags={"allow_objects": True}) if isinstance(value, dict) else value


def run_config_file(path: str) -> dict[str, Any]:
    """Run a .py config file anew and give back its global names.

    Raises:
        SyntaxError: file and line are in the message.
        ImportError: a relative import leads to no file.
        KeyError: a relative import asks for a name that the file does not have.
    """
    with PathManager.open(path) as file:
        source = file.read()
    try:
        code = compile(source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise SyntaxError(
            f"Config file {path}, line {error.lineno}: {error.msg}",
            (path, error.lineno, error.offset, error.text),
        ) from None
    name = f"_lazy_config_{next(_run_numbers)}"
    scope: dict[str, Any] = {
        "__name__": name,
        "__package__": name,
        "__file__": path,
        # Python looks an import statement's `__import__` up here, so nothing outside of them is touched.
        "__builtins__": {**vars(builtins), "__import__": _import},
    }
    exec(code, scope)
    return scope


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> types.ModuleType:
    if level == 0 or globals is None:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    statement = f"from {'.' * level}{name} import {', '.join(fromlist or ())}"
    path = _resolve(globals["__file__"], name, level, statement)
    content = run_config_file(path)
    module = types.ModuleType(content["__name__"])
    module.__file__ = path
    for wanted in fromlist or ():
        if wanted not in content:
            names = sorted(n for n in content if not n.startswith("__"))
            raise KeyError(f"{globals['__file__']}: {statement!r}, but {path} only has: {', '.join(names)}.")
        setattr(module, wanted, to_config(content[wanted]))
    return module


def _resolve(importer: str, name: str, level: int, statement: str) -> str:
    """Path of the file that `from <level dots><name> import ...` means inside the file `importer`."""
    # A file may lie where only PathManager reads, as `scheme://folder/file.py`.
    scheme, separator, place = importer.rpartition("://")
    parts = [os.pardir] * (level - 1) + name.split(".")
    target = f"{scheme}{separator}{os.path.normpath(Path(place).parent.joinpath(*parts))}"
    path = f"{target}.py"
    if PathManager.isfile(path):
        return path
    if PathManager.isdir(target):
        raise ImportError(
            f"{importer}: {statement!r} leads to the folder {target}; a relative import in a "
            "config file names a file, as in `from ..folder.file import name`."
        )
    raise ImportError(f"{importer}: {statement!r} leads to {path}, which does not exist.")
