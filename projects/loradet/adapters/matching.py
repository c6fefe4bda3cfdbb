"""Names in configs to modules and parameters: whole dotted components, or `re:` and a full regular expression."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from loradet.errors import UserError

_LISTED = 10


class UnmatchedNameError(UserError):
    """A name in a config names nothing of a module.

    Attributes:
        pattern: the name.
    """

    def __init__(self, message: str, pattern: str):
        super().__init__(message)
        self.pattern = pattern


def match_names(
    patterns: Sequence[str] | str, paths: Sequence[str], *, argument: str, listed: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Find the paths that each pattern names.

    Args:
        patterns: `mlp.fc1` names every path that ends in these whole components; `re:` begins a regular expression
            that must match a whole path.
        paths: what there is to name.
        argument: what the caller's user calls the patterns, for messages.
        listed: the paths worth naming in a message; default: all.

    Returns:
        Pattern → paths, in the order of `paths`; no entry is empty.

    Raises:
        UnmatchedNameError: a pattern names nothing; the nearest names are listed.
        UserError: it is no regular expression.
    """
    found = {}
    for pattern in as_list(patterns, argument):
        found[pattern] = _match(pattern, paths, argument)
        if not found[pattern]:
            there = nearest(pattern, paths if listed is None else listed)
            raise UnmatchedNameError(f"{argument}: {pattern!r} names nothing here. {there}", pattern)
    return found


def as_list(patterns: Iterable[str] | str, argument: str) -> list[str]:
    """Names as a plain list of strings, whatever sequence a config gave; TypeError for anything else in it."""
    names = [patterns] if isinstance(patterns, str) else list(patterns)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"{argument}: expected names, found {wrong[0]!r}.")
    return names


def _match(pattern: str, paths: Sequence[str], argument: str) -> list[str]:
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise UserError(f"{argument}: {pattern!r} is not a regular expression ({error}).") from error
        return [path for path in paths if expression.fullmatch(path)]
    return [path for path in paths if f".{path}".endswith(f".{pattern}")]


def nearest(pattern: str, paths: Sequence[str]) -> str:
    """A sentence that lists what there is, the most similar first; of long paths the ending that tells them apart."""
    wanted = pattern.removeprefix("re:")
    lengths = (wanted.count(".") + 1, wanted.count(".") + 2)
    endings = dict.fromkeys(paths if pattern.startswith("re:") else _endings(paths, lengths))
    if not endings:
        return "There is nothing to name."
    ranked = difflib.get_close_matches(wanted, endings, n=_LISTED, cutoff=0.0)
    more = f" and {len(endings) - len(ranked)} more" if len(endings) > len(ranked) else ""
    return f"There is, nearest first: {', '.join(ranked)}{more}."


def _endings(paths: Sequence[str], lengths: Sequence[int]) -> Iterator[str]:
    for path in paths:
        parts = path.split(".")
        for length in lengths:
            # Endings that begin with a number are the same ending over and over.
            if length <= len(parts) and (length == len(parts) or not parts[-length].isdigit()):
                yield ".".join(parts[-length:])
