"""KEY=VALUE words, and `--output`, on the command lines of several subcommands."""

import argparse
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

CONFIG_HELP = "LazyConfig file (.py, or a saved .yaml), or a name that loradet configs lists"
HELP = "config keys to change; +KEY=VALUE adds one"
_OVERRIDE = re.compile(r"\+?[A-Za-z_][\w.\[\]-]*=")


def add_overrides(parser: argparse.ArgumentParser, help: str = HELP) -> None:
    """The positional words of a subcommand that takes no others."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=help)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths and overrides of words that may be either; what exists, or is a pattern that matches, is a path."""
    overrides = [word for word in words if _OVERRIDE.match(word) and not _exists(word)]
    return [word for word in words if word not in overrides], overrides


def _exists(word: str) -> bool:
    return os.path.lexists(word) or bool(glob.glob(word, recursive=True))  # noqa: PTH207 (an absolute pattern is fine)


def parse_mixed(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse for a parser with subcommands, whose last words may also stand behind options.

    Those are the output of `add_output`, and KEY=VALUE, which is appended to `overrides` where the subcommand has it.
    """
    arguments, rest = parser.parse_known_args(argv)
    if rest and rest[0][:1] != "-" and getattr(arguments, "output_word", "") is None:
        arguments.output_word = Path(rest.pop(0))
    takes_some = hasattr(arguments, "overrides")
    if unknown := [word for word in rest if not takes_some or not _OVERRIDE.match(word)]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if takes_some:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def add_output(parser: argparse.ArgumentParser, what: str, *, metavar: str = "FILE") -> None:
    """`--output`, which may also be given as the last positional word; see `output_of`."""
    parser.add_argument("output_word", nargs="?", type=Path, metavar=metavar, help=f"the same as --output {metavar}")
    parser.add_argument("--output", type=Path, metavar=metavar, help=what)


def output_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Path:
    """The output, given in one of two ways; ends the program by status 2 where it is in none or both."""
    given = [path for path in (arguments.output_word, arguments.output) if path is not None]
    if len(given) != 1:
        parser.error("give --output, once" if given else "the following arguments are required: --output")
    return given[0]
