"""SLURM's short notation of node names, as its environment variables have it."""

import re

from loradet.errors import UserError

_ITEM = re.compile(r"(?:[^,\[\]]|\[[^\[\]]*\])+")
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_REPEATED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def expand_nodes(text: str) -> list[str]:
    """Names of nodes: `gpu[01-03,7],login1` is gpu01, gpu02, gpu03, gpu7, login1; SLURM's programs are not needed.

    Raises:
        UserError: it is no such list.
    """
    names = []
    for item in _split(text, _ITEM):
        found = [""]
        for part in _PART.finditer(item):
            endings = [part[2]] if part[1] is None else _numbers(part[1], text)
            found = [name + ending for name in found for ending in endings]
        names += found
    return names


def expand_counts(text: str) -> list[int]:
    """Numbers of tasks by node: `4(x2),3` is 4, 4, 3.

    Raises:
        UserError: it is no such list.
    """
    counts = []
    for item in text.split(","):
        match = _REPEATED.fullmatch(item)
        if match is None:
            raise UserError(f"SLURM's tasks per node are {text!r}; expected numbers as in 4(x2),3.")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _split(text: str, item: re.Pattern) -> list[str]:
    items = item.findall(text)
    if not items or ",".join(items) != text:
        raise UserError(_no_list(text))
    return items


def _numbers(text: str, whole: str) -> list[str]:
    """`01-03,7`: 01, 02, 03, 7; a range keeps the zeros that it begins with."""
    found = []
    for item in text.split(","):
        first, dash, last = item.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(_no_list(whole))
        found += [f"{number:0{len(first)}}" for number in range(int(first), int(last or first) + 1)]
    return found


def _no_list(text: str) -> str:
    return f"SLURM's list of nodes is {text!r}; expected names as in gpu[01-03,7],login1."
