"""The configs that come with the project: found by name, loaded, listed, copied for editing."""

import ast
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.errors import MissingFileError, UserError
from loradet.files import atomic_open

# In a wheel they are data of the package; a clone has them at its top, where they are edited.
_PLACES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[3] / "configs")
LIBRARY = next((place for place in _PLACES if place.is_dir()), _PLACES[0])

PathLike = str | os.PathLike


def find_config(name: PathLike) -> Path:
    """The file of a config: a file of that name, else the config of the library that is called so.

    Args:
        name: a path, or a name in the library as `custom_coco`, `common/optim.py` or `configs/quickstart.py`.

    Raises:
        MissingFileError: neither; the nearest names of the library are listed.
    """
    if Path(name).is_file():
        return Path(name)
    for candidate in _in_library(name):
        if candidate.is_file():
            return candidate
    raise MissingFileError(f"Config file {name} does not exist, here or among loradet's own{_nearest(str(name))}.")


def get_config(name: PathLike, *keys: str) -> Any:
    """Load a config of the library (or a file) for use in another one, as Detectron2's `model_zoo.get_config`.

        model = get_config("common/models/retinanet_timm.py").model
        atto_lora, slim = get_config("common/backbones.py", "atto_lora", "slim")

    Each call loads it anew, so that what it returns may be changed.

    Args:
        name: as `find_config` takes it.
        keys: names that the file defines, functions too.

    Returns:
        Without keys the whole config, with one key its value, with several a tuple of theirs.

    Raises:
        MissingFileError: no such config; the nearest names are listed.
        UserError: a .yaml that calls more than `loradet.config.trust` knows.
        KeyError: the file does not define a key.
    """
    from detectron2.config import LazyConfig

    from loradet.config.trust import check_trusted

    file = str(find_config(name))
    check_trusted(file)
    if not keys:
        return LazyConfig.load(file)
    values = LazyConfig.load(file, keys)
    return values[0] if len(keys) == 1 else values


def list_configs() -> dict[str, str]:
    """The configs of the library that can be trained, by name, with the first line of what they say of themselves."""
    return {name: one.line for name, one in _described().items() if one.trains}


def list_parts() -> dict[str, tuple[str, list[str]]]:
    """What configs are put together from: files of `common/`, each with its first line and the names it defines."""
    parts = {name: one for name, one in _described().items() if name.startswith("common/")}
    return {name: (one.line, one.names) for name, one in parts.items()}


def copy_config(name: PathLike, folder: PathLike) -> Path:
    """Write a copy of a config to edit, which works where it lies: what it imports comes from the library.

    Args:
        name: as `find_config` takes it.
        folder: to write it to; made where it is not there.

    Returns:
        The new file.

    Raises:
        MissingFileError: no such config.
        UserError: the folder has a file of that name already, or the config is no Python file.
    """
    source = find_config(name)
    if source.suffix != ".py":
        raise UserError(f"{source} imports nothing: copy it as a file.")
    target = Path(folder) / source.name
    if target.exists():
        raise UserError(f"{target} exists already: choose another folder, or remove it.")
    text = _standing_alone(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(target) as file:
        file.write(text)
    return target


def _in_library(name: PathLike) -> list[Path]:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        return []
    relative = Path(*parts[1:]) if parts[0] == "configs" and len(parts) > 1 else Path(name)
    return [LIBRARY / relative, LIBRARY / f"{relative}.py"]


def _names() -> list[str]:
    files = (file for file in LIBRARY.rglob("*.py") if "__pycache__" not in file.parts)
    return sorted(file.relative_to(LIBRARY).as_posix() for file in files)


def _nearest(name: str) -> str:
    wanted = name.removeprefix("configs/")
    names = _names()
    by_stem = {Path(one).stem: one for one in reversed(names)}
    found = difflib.get_close_matches(wanted, names, n=3)
    stems = difflib.get_close_matches(Path(wanted).stem, by_stem, n=3)
    found += [by_stem[stem] for stem in stems if by_stem[stem] not in found]
    return f"; nearest: {', '.join(found[:4])}" if found else ""


@dataclass(frozen=True)
class _Described:
    """The first line of a config, what it defines, and whether it has all that a training needs."""

    line: str
    names: list[str]
    trains: bool


def _described() -> dict[str, _Described]:
    described = {}
    for name in _names():
        tree = ast.parse((LIBRARY / name).read_text(encoding="utf-8"))
        imported, defined = set(), []
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                names = [alias.asname or alias.name for alias in node.names]
                imported |= set(names)
                defined += names if node.level else []  # of another config, which it passes on
            elif isinstance(node, ast.Assign):
                defined += [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.FunctionDef):
                defined.append(node.name)
        line = (ast.get_docstring(tree) or "").partition("\n")[0]
        trains = {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= {*imported, *defined}
        described[name] = _Described(line, [one for one in defined if not one.startswith("_")], trains)
    return described


def _standing_alone(source: Path) -> str:
    """The text of a config whose relative imports became calls of `get_config`."""
    text = source.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom) and node.level]
    for node in reversed(imports):
        lines[node.lineno - 1 : node.end_lineno] = [f"{_as_call(source, node)}\n"]
    if imports:
        lines.insert(imports[0].lineno - 1, "from loradet import get_config\n\n")
    return "".join(lines)


def _as_call(source: Path, node: ast.ImportFrom) -> str:
    folder = source.parents[node.level - 1]
    file = folder.joinpath(*(node.module or "").split(".")).with_suffix(".py")
    name = file.relative_to(LIBRARY).as_posix() if file.is_relative_to(LIBRARY) else str(file)
    names = [alias.asname or alias.name for alias in node.names]
    keys = ", ".join(f'"{alias.name}"' for alias in node.names)
    return f'{", ".join(names)} = get_config("{name}", {keys})'
