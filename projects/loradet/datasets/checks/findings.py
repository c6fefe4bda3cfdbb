"""Findings of a check, and their text."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALIKE = 3  # of a kind are listed where nothing but the image differs

# What `fix` does about a kind of problem; it leaves what is not listed.
REPAIRS = {
    "odd encoding": "writes plain UTF-8",
    "broken category": "numbers it anew, or leaves it out where it has no name",
    "duplicate category id": "numbers the later one anew",
    "duplicate category name": "makes them one",
    "broken image entry": "leaves it out",
    "broken image id": "numbers it anew",
    "duplicate image id": "numbers the later picture anew; annotations stay with the first",
    "missing image": "leaves it out, with its annotations",
    "unreadable image": "leaves it out, with its annotations",
    "wrong size": "writes the true size",
    "no size": "writes the true size, given --images",
    "picture under two ids": "keeps the first, with the annotations of both",
    "duplicate annotation id": "numbers the later one anew",
    "annotation of absent image": "leaves it out",
    "unknown category": "leaves it out",
    "not a box": "leaves it out",
    "box without area": "leaves it out",
    "box outside image": "clips it, or leaves it out where under a pixel is inside",
    "box under a pixel": "leaves it out",
    "box as fractions": "multiplies it by the picture's size",
    "duplicate box": "keeps the first",
    "broken area": "writes the box's",
    "constant area": "writes the boxes' own",
    "broken iscrowd": "writes 1: neither trained on nor counted",
    "broken ignore": "writes 1: neither trained on nor counted",
    "odd value": "writes it as COCO has it",
    "same picture in two splits": "mends one file alone: take the picture out of one split",
}


@dataclass(frozen=True)
class Problem:
    """One fault or warning: what kind, of which image (id and file name, None where it is of none), in words.

    Attributes:
        box: XYWH in pixels, of what is said of a single box.
        split: that the image is in, where that does not go without saying.
    """

    kind: str
    message: str
    image_id: Any = None
    file_name: str | None = None
    box: tuple[float, float, float, float] | None = None
    split: str = ""

    def __str__(self) -> str:
        where = "" if self.image_id is None else f"image {self.image_id}"
        where += f" ({self.file_name})" if self.file_name else ""
        return f"{where}: {self.message}" if where else self.message


@dataclass(frozen=True)
class Report:
    """What was found in one annotation file.

    Attributes:
        image_root: None where the pictures were not opened.
        problems: faults, which `fix` repairs.
        notes: lines of what is no fault and good to know.
        warnings: what is no fault and may hurt; `fix` leaves it.
    """

    json_file: Path
    image_root: Path | None
    images: int
    annotations: int
    problems: list[Problem]
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Number of problems by kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def text(self, limit: int = 20) -> str:
        """The report for people, at most `limit` lines of each kind."""
        size = f"{self.images} images, {self.annotations} annotations"
        lines = [f"{self.json_file}: {size}, {_number(len(self.problems), 'problem')}"]
        lines += listed(self.problems, limit)
        lines += [f"  note: {note}" for note in self.notes]
        lines += listed(self.warnings, limit, "warning: ")
        return "\n".join(lines)


class Findings:
    """Collects problems and warnings of one file."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def add(
        self,
        kind: str,
        message: str,
        image_id: Any = None,
        file_name: str | None = None,
        box: Any = None,
        split: str = "",
    ) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, message, image_id, file_name, box, split))

    def warn(
        self, kind: str, message: str, image_id: Any = None, file_name: str | None = None, box: Any = None
    ) -> None:
        """Note a warning."""
        self.warnings.append(Problem(kind, message, image_id, file_name, box))


def listed(problems: Iterable[Problem], limit: int, mark: str = "") -> Iterator[str]:
    """Lines by kind: its number and what `fix` does, then the first `limit`, or `ALIKE` where all say the same."""
    for kind, found in by_kind(problems).items():
        yield f"  {mark}{kind}: {len(found)} (--fix {repair_of(kind)})"
        # One sentence about a thousand images is read once.
        shown = found[: min(limit, ALIKE) if len({one.message for one in found}) == 1 else limit]
        yield from (f"    {problem}" for problem in shown)
        if len(found) > len(shown):
            yield f"    … and {len(found) - len(shown)} more"


def repair_of(kind: str) -> str:
    """What `fix` does about a kind of problem or warning, in words."""
    return REPAIRS.get(kind, "leaves it")


def by_kind(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """Problems by kind, in the order in which the kinds came first."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    return kinds


def _number(count: int, thing: str) -> str:
    return f"{count or 'no'} {thing}{'s' * (count != 1)}"
