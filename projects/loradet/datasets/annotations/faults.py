"""The error for ambiguous values in a file: it names the first of each kind, and counts the others."""

from pathlib import Path
from typing import Any

from loradet.datasets.annotations.values import show
from loradet.errors import UserError


class Faults:
    """Faults of one file, in the order in which they were found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first: dict[tuple[str, str], str] = {}
        self._others: dict[tuple[str, str], list[int]] = {}

    def add(self, table: str, position: int, key: str, expected: str, value: Any = None, number: Any = None) -> None:
        """Note one.

        Args:
            table: the list that the entry is in, as "images".
            position: of the entry.
            key: that is at fault.
            expected: what would be right.
            value: what is there.
            number: the entry's id, as it is written.
        """
        kind = (table, key)
        if kind in self._first:
            self._others[kind].append(position)
        else:
            self._others[kind] = []
            entry = f"entry {position} of {table}" + ("" if number is None else f" (id {show(number)})")
            self._first[kind] = f"{entry}: {key} is {show(value)}, expected {expected}"

    def refuse(self) -> None:
        """Raise UserError where there are any."""
        if not self._first:
            return
        parts = []
        for kind, text in self._first.items():
            others = self._others[kind]
            entries = ", ".join(map(str, others[:3])) + (", …" if len(others) > 3 else "")
            parts.append(text + (f" (and so in {len(others)} more: {entries})" if others else ""))
        raise UserError(f"{self.path}: {'; '.join(parts)}. {how_to_repair(self.path)}")


def how_to_repair(path: Path) -> str:
    """The command that shows all faults of a file and writes a repaired copy."""
    return f"Try: loradet data check {path} --images IMAGE_ROOT --fix repaired.json"
