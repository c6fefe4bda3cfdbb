"""Schema checks of JSON objects: the first entry of a wrong type, in words."""

from collections.abc import Callable, Mapping
from typing import Any

# Gives what is wrong with a value, as the end of a sentence that begins with where it is; None where nothing is.
Kind = Callable[[Any, str], str | None]

_LARGEST = 2**63


def _plain(expected: str, accepts: Callable[[Any], bool]) -> Kind:
    def problem(value: Any, where: str) -> str | None:
        return None if accepts(value) else f"{where} is {_shown(value)}; expected {expected}"

    return problem


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_in(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and low <= value <= high


TEXT = _plain("a text", lambda value: isinstance(value, str))
WHOLE = _plain("a whole number", _is_whole)
NUMBER = _plain("a number", lambda value: isinstance(value, float) or _is_whole(value))
SHARE = _plain("a number from 0 to 1", lambda value: not isinstance(value, bool) and _is_in(value, 0.0, 1.0))
FINITE = _plain("a finite number", lambda value: not isinstance(value, bool) and _is_in(value, -1e300, 1e300))
TRUTH = _plain("true or false", lambda value: isinstance(value, bool))


def optional(kind: Kind) -> Kind:
    """`kind`, or null."""
    return lambda value, where: None if value is None else kind(value, where)


def list_of(kind: Kind) -> Kind:
    """A list whose elements are of a kind."""

    def problem(value: Any, where: str) -> str | None:
        if not isinstance(value, list):
            return f"{where} is {_shown(value)}; expected a list"
        return _first(kind(item, f"{where}[{number}]") for number, item in enumerate(value))

    return problem


def mapping_to(kind: Kind) -> Kind:
    """An object whose values are of a kind, whatever their names."""

    def problem(value: Any, where: str) -> str | None:
        if not isinstance(value, dict):
            return f"{where} is {_shown(value)}; expected an object"
        return _first(kind(item, _join(where, name)) for name, item in value.items())

    return problem


def entries(kinds: Mapping[str, Kind], required: tuple[str, ...] = ()) -> Kind:
    """An object with entries of certain kinds; others may be anything.

    Args:
        kinds: by name.
        required: names that must be there.
    """

    def problem(value: Any, where: str) -> str | None:
        if not isinstance(value, dict):
            return f"{where} is {_shown(value)}; expected an object"
        if absent := [name for name in required if name not in value]:
            return f"{_join(where, absent[0])} is not there"
        return _first(kind(value[name], _join(where, name)) for name, kind in kinds.items() if name in value)

    return problem


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, float)) else _WORDS.get(type(value)) or repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


_WORDS = {dict: "an object", list: "a list", type(None): "null", bool: "true or false"}
