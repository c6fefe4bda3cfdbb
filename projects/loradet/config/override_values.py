"""The value of an override: Hydra's grammar, and paths and other texts that the grammar does not have."""

import re
import shlex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from loradet.config.hints import fits
from loradet.errors import UserError

# Last part of a key that holds a path, in our configs and in Detectron2's.
_PATH = re.compile(
    r"weights|resnet50|(?!(?:max|min|num)_).*_(?:json|images|yaml)|(?:.*_)?(?:root|dir|file|folder|path|checkpoint)"
)

# A text that has a comma by nature, and no other meaning.
_PERCENTILES = re.compile(r"percentile:[\d.]+,[\d.]+")


def parse_value(override: str, key: str, text: str, *, given: Any, hints: list[Any]) -> Any:
    """Make a value of what stands behind the first `=` of an override.

    A path is taken as it is, without the quotes around it; `null` and what is empty are None and "". So is another
    text that the grammar cannot read, where texts are taken. All else is Hydra's override grammar.

    Args:
        override: the whole, for messages.
        key: where the value goes.
        text: the value as it was typed.
        given: what the config has there now; None where it has nothing.
        hints: type hints of all that takes the value, as far as they are known.

    Raises:
        UserError: a list of values to try one by one, or what the grammar cannot read; the form that works is shown.
    """
    takes_text = all(fits("", hint) for hint in hints) and (bool(hints) or isinstance(given, str))
    if holds_path(key) and _may_be_path(text, given, hints):
        return _path(text)
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
    except HydraException as error:
        is_text = text.lstrip()[:1] not in ("[", "{")
        takes_lists = any(fits([], hint) or fits({}, hint) for hint in hints)
        if (is_text and takes_text) or (hints and not takes_text and (is_text or not takes_lists)):
            return _unquoted(text)  # a text, or what is refused as one
        if any(text.count(left) != text.count(right) for left, right in ("[]", "{}")):
            raise UserError(f"Override {override!r} cannot be read: a bracket is not closed.") from error
        form = _quoted_form(key, text)
        raise UserError(
            f"Override {override!r} cannot be read: a text with other characters than letters, digits and -_./:%+@ "
            f"is quoted{f': write {form}' if form else ', in a list each by itself'}."
        ) from error
    if parsed.is_sweep_override():
        if takes_text and _PERCENTILES.fullmatch(text):
            return text
        raise UserError(
            f"Override {override!r} lists several values, and a run takes one: a list is {key}=[…], "
            f"a text with commas {shlex.quote(f'{key}={_quoted(text)}')}."
        )
    return parsed.value()


def holds_path(key: str) -> bool:
    """Whether a key is named as those that hold a path are."""
    return _PATH.fullmatch(key.rpartition(".")[2]) is not None


def _may_be_path(text: str, given: Any, hints: list[Any]) -> bool:
    if not all(fits("", hint) for hint in hints) or not isinstance(given, str | None):
        return False
    return given is not None or bool(hints) or text.lstrip()[:1] not in ("[", "{")


def _path(text: str) -> str | None:
    if text.strip() == "null":
        return None
    if "\\" in text and text[:1] not in "'\"":
        # The grammar's own way to write a blank or a bracket.
        try:
            value = OverridesParser.create().parse_override(f"key={text}").value()
        except HydraException:
            return text
        return value if isinstance(value, str) else text
    return _unquoted(text)


def _unquoted(text: str) -> str:
    quote = text[:1]
    if len(text) < 2 or quote not in "'\"" or text[-1] != quote:
        return text
    return text[1:-1].replace(f"\\{quote}", quote)


def _quoted_form(key: str, text: str) -> str | None:
    """The override as a shell takes it, with quotes where the grammar wants them; None where that does not help."""
    inner = text.strip()
    if inner[:1] == "[" and inner[-1:] == "]":
        value = f"[{','.join(one if _is_readable(one) else _quoted(one) for one in _items(inner[1:-1]))}]"
    else:
        value = _quoted(_unquoted(inner))
    return shlex.quote(f"{key}={value}") if value.isprintable() and _is_readable(value) else None


def _items(text: str) -> list[str]:
    """Parts of a list: between commas outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter
        else:
            depth += (letter in "([{") - (letter in ")]}" and depth > 0)
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _quoted(text: str) -> str:
    if '"' not in text:
        return f'"{text}"'
    return f"'{text}'" if "'" not in text else '"' + text.replace('"', '\\"') + '"'


def _is_readable(text: str) -> bool:
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return False
    return not parsed.is_sweep_override()
