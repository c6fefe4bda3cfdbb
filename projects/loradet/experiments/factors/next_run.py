"""A config that combines the levels that were best one by one, put together from the differences of their configs."""

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from loradet.errors import UserError
from loradet.experiments.factors.design import Design, Level, levels_text
from loradet.experiments.study.definition import Entry

FILE = "next_run.py"
# Keys that say where a run goes and not what it is.
_PLACES = (("train", "output_dir"), ("train", "seed"))
Path = tuple[str | int, ...]


class CombinationError(UserError):
    """The levels' configs do not say how to combine them."""


@dataclass(frozen=True)
class Changes:
    """From one config to another: keys to set, keys to delete."""

    values: Mapping[Path, Any] = field(default_factory=dict)
    deleted: frozenset[Path] = frozenset()

    def __len__(self) -> int:
        return len(self.values) + len(self.deleted)


@dataclass(frozen=True, kw_only=True)
class NextRun:
    """A combination of levels and how to train it.

    Attributes:
        existing: the entry that has these levels already.
        text: of a config file that has them, for `LazyConfig.load` in the project's folder.
    """

    levels: Mapping[str, Level]
    existing: Entry | None
    text: str


def next_run(plan: Design, levels: Mapping[str, Level], output_dir: str) -> NextRun:
    """The config of some levels: that of the entry that has them, or the baseline's with what each level changes there.

    What a level changes is read off the configs (not resolved, so that what follows from a key is not named beside it)
    of the baseline and of the entry that differs from it in that factor alone. The file begins from whichever of these
    configs leaves least to change.

    Args:
        output_dir: what the file names as `train.output_dir`.

    Raises:
        CombinationError: no entry differs from the baseline in one factor alone at one of these levels, the configs
            of two of them set one key to different values, or a value has no name to import it by.
    """
    existing = plan.entry_with(levels)
    if existing is not None:
        return NextRun(levels=levels, existing=existing, text=_file(existing, Changes(), levels, output_dir))
    sources = [_source(plan, name, level) for name, level in levels.items() if level != plan.baseline.factors[name]]
    configs = {entry.id: _plain(entry) for entry in (plan.baseline, *sources)}
    base = configs[plan.baseline.id]
    parts = {entry.id: _changes(base, configs[entry.id]) for entry in sources}
    _check_conflicts(parts)
    wanted = _apply(base, parts.values())
    candidates = [(entry, _changes(configs[entry.id], wanted)) for entry in (plan.baseline, *sources)]
    start, rest = min(candidates, key=lambda one: len(one[1]))
    return NextRun(levels=levels, existing=None, text=_file(start, rest, levels, output_dir))


def _source(plan: Design, name: str, level: Level) -> Entry:
    for entry in plan.entries:
        if entry.factors[name] == level and plan.differing(entry) == {name}:
            return entry
    raise CombinationError(
        f"No entry differs from {plan.baseline.id} in {levels_text({name: level})} alone, so that nothing says which "
        "keys of its config make that level. Write the config by hand."
    )


def _plain(entry: Entry) -> dict[str, Any]:
    from loradet.config import load_config

    config = load_config(entry.config, list(entry.overrides))
    plain = OmegaConf.to_container(config, resolve=False, throw_on_missing=False)
    for *parents, last in _PLACES:
        node = plain
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    return plain


def _changes(old: Any, new: Any, path: Path = ()) -> Changes:
    """Each at the key nearest the root that differs as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        shared = [(key, old[key], new[key]) for key in new if key in old]
        added = {(*path, key): value for key, value in new.items() if key not in old}
        deleted = {(*path, key) for key in old if key not in new}
    elif _is_nested(old) and _is_nested(new) and len(old) == len(new):
        shared, added, deleted = [(key, *both) for key, both in enumerate(zip(old, new))], {}, set()
    else:
        same = _text(old) == _text(new)
        return Changes() if same else Changes({path: new})
    for key, before, after in shared:
        inner = _changes(before, after, (*path, key))
        added |= inner.values
        deleted |= inner.deleted
    return Changes(added, frozenset(deleted))


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value)


def _check_conflicts(parts: Mapping[str, Changes]) -> None:
    seen: dict[Path, tuple[str, str]] = {}
    for name, changes in parts.items():
        told = {path: _text(value) for path, value in changes.values.items()} | dict.fromkeys(changes.deleted, "absent")
        for path, value in told.items():
            for other, (owner, before) in seen.items():
                overlap = path[: len(other)] == other or other[: len(path)] == path
                if overlap and not (path == other and value == before):
                    raise CombinationError(
                        f"The configs of {owner} and {name} both change {_dotted(path)} ({before}; {value}), so that "
                        "nothing says what the two together have. Write the config by hand."
                    )
        seen |= {path: (name, value) for path, value in told.items()}


def _apply(base: dict[str, Any], parts: Sequence[Changes]) -> dict[str, Any]:
    copy = _copied(base)
    for changes in parts:
        for path in changes.deleted:
            _parent(copy, path).pop(path[-1], None)
        for path, value in changes.values.items():
            _parent(copy, path)[path[-1]] = value
    return copy


def _copied(node: Any) -> Any:
    """Containers anew; what is in them may be classes or functions and stays."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node


def _parent(node: Any, path: Path) -> Any:
    for key in path[:-1]:
        node = node[key]
    return node


def _file(entry: Entry, changes: Changes, levels: Mapping[str, Level], output_dir: str) -> str:
    for path, value in changes.values.items():
        _check_written(path, value)
    title = textwrap.wrap(
        f"{levels_text(levels)}: put together from the best levels. Use it in the project's folder.", 110
    )
    lines = ['"""' + "\n".join(title) + ('\n"""' if len(title) > 1 else '"""'), ""]
    lines += ["from loradet.config import load_config", ""]
    arguments = ", ".join([_quoted(entry.config), "[" + ", ".join(map(_quoted, entry.overrides)) + "]"])
    names = sorted(_plain(entry))
    lines += [f"_config = load_config({arguments})"]
    lines += [f"{name} = _config.{name}" for name in names]
    lines += [f"del {_dotted(path)}" for path in sorted(changes.deleted, key=str)]
    lines += [f"{_dotted(path)} = {_text(value)}" for path, value in changes.values.items()]
    lines += [f"train.output_dir = {_quoted(output_dir)}"]
    return "\n".join(lines) + "\n"


def _dotted(path: Path) -> str:
    first, *rest = path
    return str(first) + "".join(
        f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]" for key in rest
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text(value: Any) -> str:
    """A value as Python; a callable as the dotted path that configs know it by (see `_check_written`)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if callable(value) and hasattr(value, "__qualname__"):
        return _quoted(f"{value.__module__}.{value.__qualname__}")
    return _quoted(value) if isinstance(value, str) else repr(value)


def _check_written(path: Path, value: Any) -> None:
    """Raises CombinationError where `_text` of a value is not that value again."""
    if isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_written((*path, key), inner)
    elif not (isinstance(value, str | bool | int | float | None) or _is_importable(value)):
        raise CombinationError(
            f"{_dotted(path)} is {value!r}, which has no name that a config could import it by. Give it one in a "
            "module, or write the config by hand."
        )


def _is_importable(value: Any) -> bool:
    from detectron2.utils.registry import locate

    if not callable(value) or not hasattr(value, "__qualname__"):
        return False
    try:
        return locate(f"{value.__module__}.{value.__qualname__}") is value
    except ImportError:
        return False
