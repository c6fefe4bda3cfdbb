"""Parses the `config.yaml` of many runs: those of one experiment differ in seeds and the folder's name alone."""

import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from loradet.experiments.study.catalogue import PlainLoader

_SEED = re.compile(r"^( *(?:\w+_)?seed: )(0|[1-9]\d*)$", re.MULTILINE)
# A character that no config has marks what differs.
_MARK = "\ue000"
_FOLDER, _NUMBER = f"{_MARK}run folder", f"{_MARK}seed "


@functools.lru_cache(maxsize=2048)
def parse_config(path: Path, _size: int, _mtime_ns: int) -> Any:
    """The content of a config file as plain values, not to be changed; several parts of a report read the same ones.

    Raises:
        yaml.YAMLError, UnicodeDecodeError: it is no YAML.
    """
    text, folder = path.read_text(encoding="utf-8"), path.parent.name
    # Such a name, of a study's run, is no number or other value, nor part of one.
    if _MARK not in text and ("_full" in folder or "_smoke" in folder):
        places = itertools.count()
        shared = _SEED.sub(lambda match: f"{match[1]}{_NUMBER}{next(places)}", text.replace(folder, _FOLDER))
        numbers = {f"{_NUMBER}{place}": int(match[2]) for place, match in enumerate(_SEED.finditer(text))}
        if (content := _shared(shared, len(numbers))) is not None:
            return _filled(content, numbers, folder)
    return yaml.load(text, Loader=PlainLoader)


@functools.lru_cache(maxsize=256)
def _shared(text: str, seeds: int) -> Any:
    """What runs have in common; None where a mark is no value of its own, as inside a longer text."""
    content = yaml.load(text, Loader=PlainLoader)
    marked = [text for text in _texts(content) if _NUMBER in text]
    is_sound = len(marked) == seeds and all(re.fullmatch(rf"{_NUMBER}\d+", text) for text in marked)
    return content if is_sound else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _filled(value: Any, numbers: dict[str, int], folder: str) -> Any:
    if isinstance(value, str):
        if _MARK not in value:
            return value
        return numbers[value] if value in numbers else value.replace(_FOLDER, folder)
    if isinstance(value, dict):
        return {_filled(key, numbers, folder): _filled(inner, numbers, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, numbers, folder) for inner in value]
    return value
