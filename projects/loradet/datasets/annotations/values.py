"""Parses single values of annotation files; None where a value is ambiguous.

JSON of many exporters has numbers as texts, whole numbers as floats, flags as booleans or null.
"""

import math
import re
from typing import Any

_WHOLE = re.compile(r"\s*([+-]?\d{1,19})(?:\.0*)?\s*", re.ASCII)
_CANONICAL = re.compile(r"(-?[1-9]\d{0,18}|0)(?:\.0*)?", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_LIMIT = 2**63  # of what a column holds

# Beyond this no number is one of pixels; squares of what is within stay far from overflow.
MAX_PIXELS = 1e9
# pycocotools leaves out what is larger.
MAX_AREA = 1e10


def as_number(value: Any) -> int | float | None:
    """A finite number, also where a text says it: "12.5" is 12.5. True and False are none."""
    kind = type(value)
    if kind is str and _NUMBER.fullmatch(value) and len(value) < 400:
        value = float(value)
        kind = float
    if kind is float:
        return value if math.isfinite(value) else None
    return value if kind is int and abs(value) < _LIMIT else None


def as_whole(value: Any) -> int | None:
    """A whole number of 64 bits: 3, 3.0, "3" and "3.0" are 3."""
    kind = type(value)
    if kind is str:
        match = _WHOLE.fullmatch(value)
        value = int(match[1]) if match else None
    elif kind is float:
        value = int(value) if value.is_integer() else None
    elif kind is not int:
        return None
    return value if value is not None and -_LIMIT <= value < _LIMIT else None


def as_image_id(value: Any) -> int | str | None:
    """The id of an image: a whole number, or any other text ("0012" is not 12, since both may be ids)."""
    if type(value) is not str:
        return as_whole(value)
    if _CANONICAL.fullmatch(value) and (number := as_whole(value)) is not None:
        return number
    return value if _is_text(value) else None


def as_flag(value: Any) -> bool | None:
    """A yes or no: null and what is absent are no; 0, 1, 0.0, 1.0, booleans and their texts are what they say."""
    if value is None:
        return False
    kind = type(value)
    if kind is bool:
        return value
    if kind is int or kind is float:
        return bool(value) if value in (0, 1) else None
    if kind is str:
        text = value.strip()
        return _FLAGS.get(text.lower(), _FLAGS.get(text.removesuffix(".0")))
    return None


def as_name(value: Any) -> str | None:
    """A name, which a number may be too."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return str(value)
    return value if type(value) is str and _is_text(value) else None


def _is_text(value: str) -> bool:
    """Whether a text can be written anywhere: halves of surrogate pairs cannot."""
    try:
        return value.isascii() or bool(value.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def as_box(value: Any) -> tuple[float, float, float, float] | None:
    """The four numbers of a box XYWH, each a finite one of at most `MAX_PIXELS`."""
    if type(value) not in (list, tuple) or len(value) != 4:
        return None
    numbers = [as_number(one) for one in value]
    if any(one is None or abs(one) > MAX_PIXELS for one in numbers):
        return None
    return tuple(float(one) for one in numbers)


def is_no_box(value: Any) -> bool:
    """Whether an annotation says that it has no box: by null, an empty list or no `bbox` at all."""
    return value is None or value == []


def as_area(value: Any) -> float | None:
    """An area that pycocotools counts."""
    number = as_number(value)
    return float(number) if number is not None and 0 < number <= MAX_AREA else None


def show(value: Any) -> str:
    """A value in a message, as JSON has it, shortened."""
    if value is None:
        return "null or missing"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]} …"
