"""The space of a search: which values of a config vary, and how."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from loradet.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

KINDS = {
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "int": "[low, high] or [low, high, step]",
    "logint": "[low, high]",
    "choice": "a list of values",
    "times": "[key, factor]",
}
Value = str | int | float


@dataclass(frozen=True)
class Dimension:
    """What one key of the config may be.

    Attributes:
        key: dotted, as an override has it.
        kind: one of `KINDS`, but "times".
        values: bounds (and step), or what is chosen from: each as the text behind `KEY=`.
    """

    key: str
    kind: str
    values: tuple[Value, ...]

    def distribution(self, value: Value | None = None) -> "BaseDistribution":
        """The same for Optuna.

        Args:
            value: of an earlier trial, when bounds were others; the distribution has it in all the same.
        """
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.values)
        low, high, *step = self.values
        if value is not None:
            low, high, step = min(low, value), max(high, value), []
        if self.kind in ("uniform", "loguniform"):
            return FloatDistribution(low, high, log=self.kind == "loguniform")
        return IntDistribution(low, high, log=self.kind == "logint", step=step[0] if step else 1)

    def holds(self, value: Any) -> bool:
        """Whether a value is in it."""
        if self.kind == "choice":
            return value in self.values
        low, high, *_ = self.values
        return isinstance(value, int | float) and low <= value <= high

    def extremes(self) -> tuple[Value, ...]:
        """Values that show whether the config takes all of them."""
        return self.values if self.kind == "choice" else self.values[:2]

    def __str__(self) -> str:
        return f"{self.kind} [{', '.join(map(shown, self.values))}]"


@dataclass(frozen=True)
class Multiple:
    """A key that follows another one: alpha = 2 · rank, say."""

    key: str
    of: str
    factor: float

    def value(self, values: Mapping[str, Value]) -> Value:
        """Of a point."""
        product = float(values[self.of]) * self.factor
        whole = isinstance(values[self.of], int) and float(self.factor).is_integer()
        return int(product) if whole else product


@dataclass(frozen=True)
class Space:
    """All keys that vary, in the file's order."""

    dimensions: tuple[Dimension, ...]
    multiples: tuple[Multiple, ...] = ()

    def words(self, point: Mapping[str, Value]) -> list[str]:
        """A point as overrides."""
        followed = {multiple.key: multiple.value(point) for multiple in self.multiples}
        values = {dimension.key: point[dimension.key] for dimension in self.dimensions} | followed
        return [f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()]

    def corners(self) -> list[dict[str, Value]]:
        """Points that have every extreme value once."""
        first = {dimension.key: dimension.extremes()[0] for dimension in self.dimensions}
        return [first | {one.key: value} for one in self.dimensions for value in one.extremes()]

    def described(self) -> dict[str, str]:
        """Key -> what it may be."""
        return {one.key: str(one) for one in self.dimensions} | {
            one.key: f"{one.factor:g} · {one.of}" for one in self.multiples
        }


def read_space(content: Any, where: str) -> Space:
    """The space of plain values, as YAML has them: `key: {kind: values}`.

    Args:
        where: begins messages: the file.

    Raises:
        UserError: an unknown kind, bounds that leave nothing, an empty or repeated choice; the key is named.
    """
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where}: space is {content!r}; expected keys of the config, each with what it may be.")
    dimensions, multiples = [], []
    for key, given in content.items():
        place = f"{where}: space: {key}"
        if not isinstance(key, str) or not key or key[0] in "+~" or "=" in key:
            raise UserError(f"{place}: expected a dotted key of the config, as optimizer.lr.")
        kind, values = _kind_and_values(given, place)
        if kind == "times":
            multiples.append(_multiple(key, values, place))
        else:
            dimensions.append(Dimension(key, kind, _READERS[kind](values, place, kind)))
    numeric = [one.key for one in dimensions if one.kind != "choice" or all(map(_is_number, one.values))]
    for one in multiples:
        if one.of not in numeric:
            raise UserError(
                f"{where}: space: {one.key}: times {one.of}, which is no key with numbers of this space; "
                f"there are: {', '.join(numeric) or 'none'}."
            )
    if not dimensions:
        raise UserError(f"{where}: space has only keys that follow others; nothing varies.")
    return Space(tuple(dimensions), tuple(multiples))


def _kind_and_values(given: Any, place: str) -> tuple[str, Any]:
    forms = ", ".join(f"{kind}: {form}" for kind, form in KINDS.items())
    if not isinstance(given, Mapping) or len(given) != 1:
        raise UserError(f"{place}: {given!r}; expected one of {forms}.")
    ((kind, values),) = given.items()
    if kind not in KINDS:
        raise UserError(f"{place}: there is no {kind!r}; expected one of {forms}.")
    return kind, values


def _bounds(values: Any, place: str, kind: str) -> tuple[float, ...]:
    """Two numbers, the first one lower; YAML takes 1e-5, which has no point, for a text."""
    numbers = [_number(value) for value in values] if isinstance(values, list) else []
    most = 3 if kind == "int" else 2
    if not 2 <= len(numbers) <= most or None in numbers:
        raise UserError(f"{place}: {kind}: {values!r}; expected {KINDS[kind]}, numbers.")
    low, high, *step = numbers
    if low >= high:
        raise UserError(f"{place}: {kind}: low {low:g} is not below high {high:g}.")
    if kind.startswith("log") and low <= 0:
        raise UserError(f"{place}: {kind}: low {low:g}; a logarithmic range begins above 0.")
    if kind not in ("int", "logint"):
        return tuple(map(float, numbers))
    if not all(float(number).is_integer() for number in numbers):
        raise UserError(f"{place}: {kind}: {values!r}; expected whole numbers.")
    if step and (step[0] < 1 or (high - low) % step[0]):
        raise UserError(f"{place}: int: step {step[0]:g} does not lead from {low:g} to {high:g}.")
    return tuple(map(int, numbers))


def _choices(values: Any, place: str, kind: str) -> tuple[Value, ...]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{place}: {kind}: {values!r}; expected {KINDS[kind]}.")
    words = tuple(value if _is_number(value) else _word(value) for value in values)
    if twice := [word for number, word in enumerate(words) if word in words[:number]]:
        raise UserError(f"{place}: {kind}: {twice[0]} is there twice.")
    return words


def _multiple(key: str, values: Any, place: str) -> Multiple:
    factor = _number(values[1]) if isinstance(values, list) and len(values) == 2 else None
    if factor is None or not isinstance(values[0], str):
        raise UserError(f"{place}: times: {values!r}; expected {KINDS['times']}.")
    return Multiple(key, values[0], factor)


_READERS: Mapping[str, Callable[[Any, str, str], tuple[Value, ...]]] = {
    **dict.fromkeys(("uniform", "loguniform", "int", "logint"), _bounds),
    "choice": _choices,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return (value if isinstance(value, int) else number) if math.isfinite(number) else None


def _word(value: Any) -> str:
    """A value as the text behind `KEY=`: `[mlp.fc1,mlp.fc2]`, `true`, `null`; a text stays what it is."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_word(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value).split("\n", 1)[0] if not isinstance(value, float) else repr(value)


def shown(value: Value) -> str:
    """A value for tables: four digits of a number."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
