"""Entries from axes: every combination of their values, less the excluded ones."""

import itertools
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loradet.errors import UserError
from loradet.experiments.study.definition import Entry, Reported

LISTS = {"baselines", "overrides", "seeds", "splits", "metrics", "sources", "reported"}
# Axis -> its values: a list, or value -> further fields that it brings.
Axes = Mapping[str, Sequence[Any] | Mapping[Any, Mapping[str, Any]]]


def expand_grid(axes: Axes, template: Mapping[str, Any], exclude: Iterable[Mapping[str, Any]] = ()) -> list[Entry]:
    """Entries of a grid.

    A text of the template, also inside lists and mappings, may hold `{axis}`, and any field that a value of an axis
    brings; a text that is nothing but one such field becomes its value.

        expand_grid(
            axes={"rank": [4, 8], "target": {"fc1": {"names": "[mlp.fc1]"}, "fc2": {"names": "[mlp.fc2]"}}},
            template=dict(id="r{rank}_{target}", rank="{rank}", overrides=["lora.targets={names}"], ...),
            exclude=[{"rank": 4, "target": "fc2"}],
        )

    Args:
        axes: in the order in which entries vary, the last one fastest.
        template: arguments of `Entry`.
        exclude: a combination that agrees with all values of one of these is left out.

    Raises:
        ValueError: an unknown field in a text, an axis or value in `exclude` that does not exist, or no entry is left.
    """
    exclude = list(exclude)
    _check_exclusions(axes, exclude)
    entries = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values))
        if any(all(chosen[axis] == value for axis, value in rule.items()) for rule in exclude):
            continue
        fields = dict(chosen)
        for axis, value in chosen.items():
            if isinstance(axes[axis], Mapping):
                fields |= axes[axis][value]
        entries.append(make_entry({key: _fill(value, fields) for key, value in template.items()}))
    if not entries:
        raise UserError(f"The grid over {', '.join(axes)} has no entry: every combination is excluded.")
    return entries


def make_entry(values: Mapping[str, Any]) -> Entry:
    """An entry from plain values, as YAML has them. Raises ValueError for a key that entries do not have."""
    plain = dict(values)
    for key in LISTS & plain.keys():
        if not isinstance(plain[key], list | tuple):
            raise UserError(f"Entry {values.get('id', values)}: {key}={plain[key]!r}; expected a list.")
        plain[key] = tuple(plain[key])
    try:
        if "reported" in plain:
            plain["reported"] = tuple(r if isinstance(r, Reported) else Reported(**r) for r in plain["reported"])
        return Entry(**plain)
    except TypeError as error:
        problem = re.sub(r"^(\w+)\.__init__\(\) ", "", str(error))
        raise UserError(f"Entry {values.get('id', values)}: {problem}.") from error


def _check_exclusions(axes: Axes, exclude: Sequence[Mapping[str, Any]]) -> None:
    for rule in exclude:
        for axis, value in rule.items():
            if axis not in axes or value not in axes[axis]:
                raise UserError(f"exclude {dict(rule)}: {axis}={value!r} is no value of an axis ({', '.join(axes)}).")


def _fill(value: Any, fields: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {key: _fill(inner, fields) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(inner, fields) for inner in value]
    if not isinstance(value, str):
        return value
    names = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
    if unknown := [name for name in names if name not in fields]:
        raise UserError(f"{value!r}: the grid has no field {unknown[0]!r}; it has: {', '.join(map(str, fields))}.")
    if len(names) == 1 and value == f"{{{names[0]}}}":
        return fields[names[0]]
    return value.format_map(fields)
