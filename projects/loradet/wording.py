"""Text helpers for messages."""

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<![A-Za-z\d])\d+")  # of "stages_3.blocks.0.mlp.fc1" 3 and 0


def shorten(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def group_paths(paths: Iterable[str]) -> list[str]:
    """Dotted paths that differ in numbers alone as one, in order: "stages_{0-3}.blocks.{0-8}.mlp.fc1 (18)"."""
    groups: dict[str, list[list[int]]] = {}
    for path in paths:
        pattern = _NUMBER.sub("{}", path.replace("{", "{{").replace("}", "}}"))
        groups.setdefault(pattern, []).append([int(number) for number in _NUMBER.findall(path)])
    return [
        pattern.format(*map(_span, zip(*numbers, strict=True))) + (f" ({len(numbers)})" if len(numbers) > 1 else "")
        for pattern, numbers in groups.items()
    ]


def _span(numbers: Iterable[int]) -> str:
    low, high = min(numbers := list(numbers)), max(numbers)
    return str(low) if low == high else f"{{{low}-{high}}}"


def in_minutes(seconds: float) -> str:
    """A duration for people: "2 min 8 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
