"""Ids in a check: new ones, and the keys by which entries are found."""

import json
from collections.abc import Callable, Iterable
from typing import Any


class FreshIds:
    """Ids that no entry has.

    Args:
        ids: gives those that are taken, None for entries without; asked for only where an id is wanted.
    """

    def __init__(self, ids: Callable[[], Iterable[int | None]]) -> None:
        self._ids = ids
        self._used: set[int] | None = None
        self._last = 0

    def next_id(self) -> int:
        """The next one, above all others where those are not very large."""
        if self._used is None:
            self._used = {number for number in self._ids() if number is not None}
            highest = max(self._used, default=0)
            self._last = max(highest, 0) if highest < 2**31 else 0
        self._last += 1
        while self._last in self._used:
            self._last += 1
        return self._last


def key_of(meaning: Any, given: Any) -> Any:
    """What an entry is found by: the meaning of its id, else how it is written."""
    return ("as written", json.dumps(given, default=str)) if meaning is None else meaning
