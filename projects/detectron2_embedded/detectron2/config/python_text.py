"""Configs as Python-like text for people, laid out as the formatter black would do it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.utils.registry import _convert_target_to_string

LINE_LENGTH = 88
_INDENT = 4


@dataclass
class _Group:
    """What stands between two brackets: arguments of a call, or items of a list or dict."""

    opening: str
    items: list[tuple[str, "str | _Group"]]
    closing: str

    @property
    def is_call(self) -> bool:
        return self.closing == ")"

    def one_line(self) -> str:
        return f"{self.opening}{self.inner_line()}{self.closing}"

    def inner_line(self) -> str:
        return ", ".join(head + _one_line(value) for head, value in self.items)


def python_text(values: Any, prefix: str) -> str:
    """An assignment for each call or value, sorted by name; dicts outside of calls become dotted names.

    Args:
        values: plain containers, interpolations resolved.
        prefix: put before every name.
    """
    if isinstance(values, Mapping) and "_target_" not in values:
        lines = _assignments(values, prefix)
    else:
        lines = _lines(0, prefix if isinstance(values, Mapping) else "", _parse(values), "")
    return "".join(f"{line}\n" for line in lines)


def _assignments(values: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    for key, value in _sorted_items(values):
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and "_target_" not in value:
            yield from _assignments(value, f"{name}.")
        else:
            yield from _assignment(f"{name} = ", _parse(value))


def _sorted_items(values: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    try:
        return sorted(values.items(), key=lambda item: item[0])
    except TypeError:  # keys of several types
        return sorted(values.items(), key=lambda item: str(item[0]))


def _parse(value: Any) -> "str | _Group":
    if isinstance(value, Mapping) and "_target_" in value:
        arguments = [(f"{k}=", _parse(v)) for k, v in _sorted_items(value) if k != "_target_"]
        return _Group(f"{_target(value['_target_'])}(", arguments, ")")
    if isinstance(value, Mapping):
        return _Group("{", [(f"{_literal(k)}: ", _parse(v)) for k, v in _sorted_items(value)], "}")
    if isinstance(value, list):
        return _Group("[", [("", _parse(v)) for v in value], "]")
    return _literal(value)


def _target(target: Any) -> str:
    if isinstance(target, str):
        return target
    # A call that gives the callable.
    return _one_line(_parse(target)) if isinstance(target, Mapping) else _literal(target)


def _literal(value: Any) -> str:
    if callable(value) and hasattr(value, "__qualname__"):
        return _convert_target_to_string(value)
    if isinstance(value, float):
        return repr(value).replace("e+", "e")
    return _double_quoted(value) if isinstance(value, str) else repr(value)


def _double_quoted(text: str) -> str:
    """A string literal in double quotes, unless that takes more backslashes than single ones."""
    literal = repr(text)
    if literal.startswith('"'):
        return literal
    body = literal[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{body}"' if body.count("\\") <= literal.count("\\") else literal


def _one_line(node: "str | _Group") -> str:
    return node if isinstance(node, str) else node.one_line()


def _fits(line: str) -> bool:
    return len(line) <= LINE_LENGTH and "\n" not in line


def _assignment(head: str, node: "str | _Group") -> list[str]:
    """Lines of `head` and a value, which stands in parentheses where that keeps its lines short."""
    lines = _lines(0, head, node, "")
    if _fits(lines[0]):
        return lines
    wrapped = [f"{head}(", *_lines(_INDENT, "", node, ""), ")"]
    if isinstance(node, str):
        return wrapped if _fits(wrapped[1]) else lines
    is_bare_call = node.is_call and not node.items
    return wrapped if is_bare_call or all(map(_fits, wrapped)) else lines


def _lines(indent: int, head: str, node: "str | _Group", tail: str) -> list[str]:
    """Lines of `head`, a value and `tail`; a group that does not fit is opened.

    Arguments of a call stand on one line if they fit there, other items have a line each.
    """
    pad = " " * indent
    line = f"{pad}{head}{_one_line(node)}{tail}"
    if isinstance(node, str) or not node.items or _fits(line):
        return [line]
    opened, closed = f"{pad}{head}{node.opening}", f"{pad}{node.closing}{tail}"
    inner = indent + _INDENT
    single = len(node.items) == 1
    body = " " * inner + node.inner_line()
    if (node.is_call or single) and _fits(body):
        return [opened, body, closed]
    lines = [opened]
    for item_head, value in node.items:
        lines += _lines(inner, item_head, value, "" if single else ",")
    return [*lines, closed]
