"""A page of text, tables and plots, and its Markdown form."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from loradet.experiments.pages.figures import Plot


@dataclass(frozen=True)
class Table:
    """Cells are plain text; the first row names the columns. `bold` holds (row, column) of the best numbers."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A small picture.

    Attributes:
        name: of its file, without extension.
        alt: what it shows.
        jpg: content of the file.
        width, height: in pixels.
    """

    name: str
    alt: str
    jpg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Strip:
    """Pictures side by side under a title."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Section:
    """A part of a page: text, then tables, what is to be said below them, then plots and strips of pictures."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = ()
    strips: Sequence[Strip] = ()


@dataclass(frozen=True)
class Document:
    """A page."""

    title: str
    paragraphs: Sequence[str] = ()
    sections: Sequence[Section] = field(default_factory=list)


def to_markdown(document: Document, plots: str = "plots") -> str:
    """The page as Markdown; its plots are `<plots>/<name>.png`, its pictures `pictures/<name>.jpg`."""
    parts = [f"# {plain_text(document.title)}", *map(plain_text, document.paragraphs)]
    for section in document.sections:
        parts += [f"## {plain_text(section.title)}", *map(plain_text, section.paragraphs)]
        parts += [markdown_table(table) for table in section.tables]
        parts += map(plain_text, section.notes)
        for plot in section.plots:
            parts += [f"![{plain_text(plot.caption)}]({plots}/{plot.name}.png)", plain_text(plot.caption)]
        for strip in section.strips:
            images = " ".join(f"![{plain_text(one.alt)}](pictures/{one.name}.jpg)" for one in strip.pictures)
            parts += [plain_text(strip.title), images]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table, escape: bool = True) -> str:
    """A table with pipes.

    Args:
        escape: cells are plain text; False: they are Markdown already.
    """
    clean = _cell if escape else str
    rows = [
        [f"**{clean(cell)}**" if cell and (y, x) in table.bold else clean(cell) for x, cell in enumerate(row)]
        for y, row in enumerate(table.rows)
    ]
    return tabulate(rows, headers=[clean(name) for name in table.headers], tablefmt="pipe", disable_numparse=True)


def _cell(text: str) -> str:
    return " ".join(plain_text(text).replace("|", "\\|").split())


def plain_text(text: str) -> str:
    """Text whose characters Markdown would not take for markup or HTML."""
    for mark in ("\\", "`", "*", "_", "[", "<"):
        text = text.replace(mark, "\\" + mark)
    return text
