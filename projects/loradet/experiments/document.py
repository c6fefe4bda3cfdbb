"""A page of text, tables and plots, and its Markdown form."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from loradet.experiments.figures import Plot


@dataclass(frozen=True)
class Table:
    """Cells are plain text; the first row names the columns."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: text, then tables, what is to be said below them, then plots."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    paragraphs: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)


def to_markdown(document: Document, plots: str = "plots") -> str:
    """The page as Markdown; its plots are `<plots>/<name>.png`."""
    parts = [f"# {plain_text(document.title)}", *map(plain_text, document.paragraphs)]
    for section in document.sections:
        parts += [f"## {plain_text(section.title)}", *map(plain_text, section.paragraphs)]
        parts += [markdown_table(table) for table in section.tables]
        parts += map(plain_text, section.notes)
        for plot in section.plots:
            parts += [f"![{plain_text(plot.caption)}]({plots}/{plot.name}.png)", plain_text(plot.caption)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table, escape: bool = True) -> str:
    """A table with pipes.

    Args:
        escape: cells are plain text; False: they are Markdown already.
    """
    clean = _cell if escape else str
    rows = [[clean(cell) for cell in row] for row in table.rows]
    return tabulate(rows, headers=[clean(name) for name in table.headers], tablefmt="pipe", disable_numparse=True)


def _cell(text: str) -> str:
    return " ".join(plain_text(text).replace("|", "\\|").split())


def plain_text(text: str) -> str:
    """Text whose characters Markdown would not take for markup or HTML."""
    for mark in ("\\", "`", "*", "_", "[", "<"):
        text = text.replace(mark, "\\" + mark)
    return text
