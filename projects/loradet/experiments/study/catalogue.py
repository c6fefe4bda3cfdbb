"""Finds and loads studies: `study.py` or `study.yaml` in a folder under `configs/`."""

import os
import re
import runpy
import traceback
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from loradet.config.library import LIBRARY
from loradet.errors import MissingFileError, UserError
from loradet.experiments.study.config_memo import ConfigMemo
from loradet.experiments.study.definition import Entry, Scenes, Smoke, Study
from loradet.experiments.study.grid import expand_grid, make_entry
from loradet.experiments.study.reading import check_study

FILES = ("study.py", "study.yaml")
# Both build plain values and no objects; the compiled one is ten times as fast.
PlainLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def find_studies(root: str | os.PathLike | None = None) -> list[Path]:
    """The study files under a folder, sorted; None: `configs/` where it has some, else the project's own."""
    if root is None:
        return find_studies("configs") or find_studies(LIBRARY)
    return sorted(path for name in FILES for path in Path(root).glob(f"**/{name}"))


def load_study(path: str | os.PathLike, memo: ConfigMemo | None = None) -> Study:
    """Load a study file, or the one in a folder, or the one in `configs/<name>`.

    Configs are read later, where they are needed; here only those of entries that type what their config says.

    `study.py` defines `study`; `study.yaml` holds the same as plain values, with a grid as an entry of the form
    `grid: {axes: …, exclude: […], template: …}`.

    Args:
        path: of the study.
        memo: what is known of configs.

    Raises:
        FileNotFoundError: there is none; those that there are get named.
        ValueError: the file is broken, or an entry is, or it says otherwise than its config; the entry is named.
    """
    file = _study_file(Path(path))
    study = _parsed(file)
    check_study(study, memo)
    return replace(study, path=_short(file))


def _parsed(file: Path) -> Study:
    """What a file holds, not yet compared with its configs."""
    if file.suffix == ".py":
        study = _execute(file).get("study")
        if not isinstance(study, Study):
            raise UserError(f"{file} defines no `study` (a loradet.experiments.study.Study).")
        return study
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=PlainLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("entries"), list):
        raise UserError(f"{file}: expected name, title and a list of entries.")
    return _from_plain(content, file)


def shared_ids(study: Study) -> frozenset[str]:
    """Ids of a study that one of another name has too, of all that are found here and among the project's own."""
    files = {file.resolve() for root in (Path("configs"), LIBRARY) for file in find_studies(root)}
    others = (found for file in files if (found := _name_and_ids(file, file.stat().st_mtime_ns)) is not None)
    taken = frozenset(id for name, ids in others if name != study.name for id in ids)
    return taken & {entry.id for entry in study.entries}


@cache
def _name_and_ids(file: Path, _mtime_ns: int) -> tuple[str, frozenset[str]] | None:
    """Of a study as it is on disk; None where it cannot be loaded, of which one is told where one asks for it."""
    try:
        study = _parsed(file)
    except (ValueError, OSError):
        return None
    return study.name, frozenset(entry.id for entry in study.entries)


def _execute(file: Path) -> dict[str, Any]:
    try:
        return runpy.run_path(str(file))
    except (SyntaxError, NameError, AttributeError, TypeError, LookupError, ImportError) as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = f", line {own[-1].lineno}" if own else ""
        raise UserError(f"{file}{line}: {type(error).__name__}: {' '.join(str(error).split())}.") from error


def _short(file: Path) -> str:
    """The folder, without `configs/` where it lies there."""
    folder = file.parent
    for root in (Path("configs"), LIBRARY):
        if folder.is_relative_to(root):
            return str(folder.relative_to(root))
    return str(folder)


def _study_file(path: Path) -> Path:
    inside = path.relative_to("configs") if path.is_relative_to("configs") else path
    folders = (path, Path("configs") / path, LIBRARY / inside)
    for candidate in (path, *(folder / name for folder in folders for name in FILES), LIBRARY / inside):
        if candidate.is_file():
            return candidate
    known = [_short(file) if file.is_absolute() else str(file.parent) for file in find_studies()]
    raise MissingFileError(f"No study at {path}; there are: {', '.join(known) or 'none under configs/'}.")


def _from_plain(content: dict[str, Any], file: Path) -> Study:
    entries: list[Entry] = []
    for values in content["entries"]:
        if not isinstance(values, dict):
            raise UserError(f"{file}: an entry is {values!r}; expected keys and values.")
        entries += _entries(values, file)
    kinds = {"smoke": Smoke, "scenes": Scenes, "stand_in": Scenes}
    key = ""
    try:
        others = {}
        for key, value in content.items():
            if key != "entries" and value is not None:
                others[key] = kinds[key](**value) if key in kinds else value
        key = ""
        return Study(entries=tuple(entries), **others)
    except TypeError as error:
        raise UserError(f"{file}: {key}{': ' if key else ''}{_problem(error)}.") from error


def _entries(values: dict[str, Any], file: Path) -> list[Entry]:
    """The entry, or those of a grid."""
    if "grid" not in values:
        return [make_entry(values)]
    try:
        return expand_grid(**values["grid"])
    except TypeError as error:
        raise UserError(f"{file}: grid: {_problem(error)}; expected axes, template and exclude.") from error


def _problem(error: TypeError) -> str:
    return re.sub(r"^[\w.]+\(\) ", "", str(error))
