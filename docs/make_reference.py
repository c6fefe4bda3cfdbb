"""Writes the pages of docs/reference/ from the code: `python docs/make_reference.py`. A test compares them."""

import argparse
import contextlib
import importlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from loradet.cli import COMMANDS
from loradet.cli.benchmark import OF_THEIR_OWN
from loradet.cli.weights import PARTS
from loradet.config.library import list_configs, list_parts
from loradet.config.settings import describe_settings
from loradet.evaluation import coco_metrics
from loradet.evaluation.calibration.split_calibration import MEANINGS as CALIBRATION
from loradet.run_folder import RunFolder
from loradet.training.folder import metrics_log

FOLDER = Path(__file__).parent / "reference"
NOTE = "Written by `docs/make_reference.py` from the code; change that.\n"


def pages() -> dict[str, str]:
    """The text of each page, by file name."""
    return {
        "commands.md": commands_page(),
        "configs.md": configs_page(),
        "files.md": files_page(),
        "metrics.md": metrics_page(),
        "settings.md": settings_page(),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings_page() -> str:
    """The keys of `train`."""
    rows = [
        (f"**`{one.key}.…`**", "", "", one.doc)
        if one.is_group
        else (f"`{one.key}`", f"`{_value(one.default)}`", one.takes, one.doc)
        for one in describe_settings()
    ]
    text = """
        # Settings of `train`

        Keys of `train` in a config, or `KEY=VALUE` words behind a command. A duration is a number of iterations or a
        text: `1000`, `"12 epochs"`, `"0.5 epochs"`, also with bounds: `"12 epochs, at least 120 iterations"`,
        `"1 epochs, at least 20, at most 10000 iterations"`. An epoch is as many iterations as its training images fill,
        rounded up; images without boxes do not count where they are filtered out.
        """
    return _page(text, table(("key", "default", "takes", "meaning"), rows))


def _value(default: object) -> str:
    if isinstance(default, list):
        return f"[{','.join(default)}]"
    return "null" if default is None else '""' if default == "" else str(default)


def files_page() -> str:
    """The files of a run."""
    text = "Below `train.output_dir`. Each is written aside and renamed, so that none is ever half there."
    return _page("# Files of a run", text, table(("file", "holds"), _meanings(RunFolder.CONTENTS)))


def metrics_page() -> str:
    """The names of numbers."""
    return _page(
        "# Metrics",
        "## `*_metrics.json`",
        "Fractions of 1; `null` where a split has nothing of the kind to find, 0 where nothing of it was found. Beside "
        "them: `checkpoint`, `iteration`, `split`, `annotations`, `temperature_fitted_on`, and `data`, where that is "
        "synthetic.",
        table(("name", "meaning"), _meanings(coco_metrics.MEANINGS)),
        "Where the config asks for [calibration](../calibration.md), also:",
        table(("name", "meaning"), _meanings(CALIBRATION)),
        "## `metrics.json`",
        "A line a logging period and an evaluation; numbers are the median of up to 20 iterations.",
        table(("name", "meaning"), _meanings(metrics_log.MEANINGS)),
    )


def _meanings(meanings: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"`{name}`", meaning) for name, meaning in meanings.items()]


def configs_page() -> str:
    """The configs of the library."""
    rows = [(f"[`{name}`](../../configs/{name})", line) for name, line in list_configs().items()]
    text = (
        "As `loradet configs` lists them. `--config-file` takes them by name, `loradet copy NAME` writes one to edit."
    )
    parts = [
        (f"[`{name}`](../../configs/{name})", ", ".join(f"`{one}`" for one in names), line)
        for name, (line, names) in list_parts().items()
    ]
    return _page(
        "# Configs",
        text,
        table(("config", "what it is"), rows),
        "## Parts",
        "What they are put together from.",
        table(("file", "defines", "what it is"), parts),
    )


def commands_page() -> str:
    """The options of every subcommand."""
    parts = ["# Commands", "`loradet COMMAND`, or `python -m loradet.cli COMMAND`. `--help` of each says the same."]
    for name in COMMANDS:
        for title, parser in _parsers(name):
            rows = [(f"`{_call(action)}`", _help(parser, action)) for action in _actions(parser)]
            what = (parser.description or COMMANDS[name][2]).strip().split("\n\n")[0]
            parts += [f"## {title}", what]
            parts += [table(("argument", "meaning"), rows)] if rows else []
    return _page(*parts)


class _ParserFoundError(Exception):
    """Ends a command where it would parse its words."""


def _parsers(command: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of a subcommand, and those below it, each under its name."""
    module, function, _ = COMMANDS[command]
    yield from _parsers_of(f"loradet.cli.{module}", function, f"loradet {command}")
    if command == "weights":
        for part in PARTS:
            yield from _parsers_of(f"loradet.cli.weights_{part}", "main", f"loradet weights {part}")
    if command == "benchmark":
        for part in OF_THEIR_OWN:
            yield from _parsers_of(f"loradet.cli.benchmark_{part}", "main", f"loradet benchmark {part}")


def _parsers_of(module: str, function: str, title: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    found = []

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        found.append(parser)
        raise _ParserFoundError

    names = ("parse_args", "parse_known_args", "parse_intermixed_args")
    stopped = mock.patch.multiple(argparse.ArgumentParser, **dict.fromkeys(names, stop))
    with stopped, contextlib.suppress(_ParserFoundError):
        getattr(importlib.import_module(module), function)([], title)
    (parser,) = found
    yield title, parser
    if title == "loradet weights":
        return  # whose parts have parsers of their own
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                inner.description = {one.dest: one.help for one in action._choices_actions}[name]
                yield f"{title} {name}", inner


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    kinds = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, kinds)]


def _call(action: argparse.Action) -> str:
    """An option with what follows it, or the place of a positional word."""
    metavar = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    words = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    words = "" if action.nargs == 0 else words
    words += " …" if action.nargs in ("+", "*") else ""
    words = f"[{words}]" if action.nargs in ("?", "*") else words
    names = ", ".join(name for name in action.option_strings)
    return f"{names} {words}".strip()


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = argparse.HelpFormatter(parser.prog)._expand_help(action) if action.help else ""
    # Which Python 3.10 to 3.12 append to options with a --no-.
    return text.removesuffix(f" (default: {action.default})")


def _page(*parts: str) -> str:
    return "\n\n".join([textwrap.dedent(part).strip() for part in parts] + [NOTE])


def main() -> None:
    """Write all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
