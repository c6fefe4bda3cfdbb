"""Finds what is wrong with COCO data sets before a training does, and writes a repaired copy.

One examination of a file does both: whatever it reports, it also repairs or drops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradet.datasets.annotations.content import decode_checked, encoding_fault, read_bytes, without_nan
from loradet.datasets.annotations.values import as_name
from loradet.datasets.checks.across import compare_classes, find_shared_pictures
from loradet.datasets.checks.annotations import examine_annotations
from loradet.datasets.checks.categories import examine_categories
from loradet.datasets.checks.findings import Findings, Problem, Report, listed
from loradet.datasets.checks.images import examine_images
from loradet.datasets.checks.pictures import read_pictures
from loradet.datasets.checks.split_content import SplitContent, describe_boxes
from loradet.datasets.classes import real_categories
from loradet.datasets.files import PathLike, expand, output_path_of, write_coco
from loradet.errors import MissingFileError, UserError


@dataclass(frozen=True)
class Split:
    """A split to check: its name, its COCO file, and its image folder (None: pictures are not opened)."""

    name: str
    json_file: PathLike
    image_root: PathLike | None = None


def splits_of(json_files: Sequence[PathLike], image_roots: Sequence[PathLike | None]) -> list[Split]:
    """Splits named after their files, or after the folders of these where the files are named alike."""
    paths = [Path(file) for file in json_files]
    for names in ([path.stem for path in paths], [path.absolute().parent.name for path in paths]):
        if len(set(names)) == len(names):
            break
    else:
        names = [f"{path} ({number})" for number, path in enumerate(paths, start=1)]
    return [Split(*one) for one in zip(names, json_files, image_roots)]


@dataclass(frozen=True)
class SetReport:
    """What was found in the splits of a data set.

    Attributes:
        reports: of each split by itself, by name.
        contents: what is right in them, by name.
        problems, warnings: what shows only where splits are compared.
    """

    reports: dict[str, Report]
    contents: dict[str, SplitContent]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems and all(report.ok for report in self.reports.values())

    @property
    def useless(self) -> list[str]:
        """Splits without a box to find, which a training refuses; but the first, they may have no labels at all."""
        first = next(iter(self.reports), None)
        return [
            name
            for name, content in self.contents.items()
            if not content.has_boxes_to_find and (name == first or self.reports[name].annotations)
        ]

    def text(self, limit: int = 20) -> str:
        """The report for people, at most `limit` lines of each kind."""
        lines = [report.text(limit) for report in self.reports.values()]
        if self.problems or self.warnings:
            lines.append(f"Between {', '.join(self.reports)}:")
            lines += [*listed(self.problems, limit), *listed(self.warnings, limit, "warning: ")]
        return "\n".join(lines)


def check(json_file: PathLike, image_root: PathLike | None, *, progress: bool = False) -> Report:
    """Look for faults in a COCO file and its images; every image is decoded.

    Problems are missing and unreadable images, sizes that differ from the JSON, pictures under two ids, boxes outside
    the image (by more than `TOLERANCE`), under a pixel, without area, with NaN, as fractions or twice, one area for all
    boxes, duplicate ids of images, annotations and categories, unknown categories, annotations of absent images,
    entries that lack what they need, values that are not written as COCO has them (and are read for what they mean, or
    have not one meaning), and what is no JSON to other tools. Warnings are strips, more than 8 bits, pictures of one
    value and very long boxes.

    Args:
        json_file: the COCO file.
        image_root: of its pictures; None: they are not opened, and sizes are taken as they are written.
        progress: show a bar on a terminal.

    Raises:
        MissingFileError, UserError: the file or the folder is missing, or the file is no COCO JSON at all.
    """
    return _examine(Split("", json_file, image_root), progress).report


def check_splits(splits: Sequence[Split], *, repaired: PathLike | None = None, progress: bool = False) -> SetReport:
    """Check each split, and what shows only between them: pictures in two, classes absent or of very different shares.

    Args:
        splits: of different names, the training split first.
        repaired: of a single split, also write a copy in which nothing is found, as `fix`.
        progress: show a bar on a terminal.

    Raises:
        MissingFileError, UserError: as `check` and `fix`.
    """
    if repaired is not None:
        if len(splits) != 1:
            raise UserError(f"{len(splits)} splits to repair: one file is repaired at a time.")
        repaired = output_path_of(splits[0].json_file, repaired)
    reports, contents = {}, {}
    for split in splits:
        examined = _examine(split, progress)
        if repaired is not None:
            write_coco(repaired, examined.repaired())
        reports[split.name], contents[split.name] = examined.report, examined.content
    found = Findings()
    find_shared_pictures(contents, found)
    compare_classes(contents, found)
    return SetReport(reports, contents, tuple(found.problems), tuple(found.warnings))


def fix(json_file: PathLike, image_root: PathLike, output: PathLike, *, progress: bool = False) -> Report:
    """Write a copy in which `check` finds nothing; returns what it found in the input.

    Boxes are clipped, sizes corrected, duplicate ids numbered anew, categories of one name merged, values written as
    COCO has them. A flag that is neither 0 nor 1 becomes 1: its box is kept as a crowd region, neither trained on nor
    counted. What cannot be repaired is left out; missing and unreadable images take their annotations along. The
    annotations of a duplicate image or category id stay with its first entry. `REPAIRS` says it by kind.

    Raises:
        UserError: `output` is the input itself; else as `check`.
    """
    split = Split("", json_file, image_root)
    return check_splits([split], repaired=output, progress=progress).reports[""]


@dataclass(frozen=True)
class _Examined:
    """A file, what was found in it, and what is right in it."""

    report: Report
    content: SplitContent
    written: dict[str, Any]
    strict: bool

    def repaired(self) -> dict[str, Any]:
        """The whole content, repaired."""
        lists = {
            "images": self.content.images.kept,
            "annotations": self.content.boxes.entries(self.written["annotations"]),
            "categories": self.content.categories,
        }
        repaired = {**self.written, **lists}
        return repaired if self.strict else without_nan(repaired)


def _examine(split: Split, progress: bool) -> _Examined:
    path = expand(split.json_file)
    root = None if split.image_root is None else expand(split.image_root)
    data = read_bytes(path)
    written, strict = decode_checked(data, path)
    fault = encoding_fault(data)
    del data
    if root is not None and not root.is_dir():
        raise MissingFileError(f"No image folder at {root}: expected the images of {path} there.")
    found = Findings()
    if fault is None and not strict:
        fault = "it has NaN, Infinity or halves of surrogate pairs"
    if fault is not None:
        found.add("odd encoding", f"{fault}, so that other tools cannot read it")
    categories, category_ids = examine_categories(real_categories(written), found)
    entries = written["images"]
    names = [as_name(entry.get("file_name")) for entry in entries]
    states = None if root is None else read_pictures(root, names, progress=progress)
    images = examine_images(entries, states, root, found)
    boxes = examine_annotations(written["annotations"], images, category_ids, found)
    content = SplitContent(path, root, categories, images, boxes)
    notes = (*_notes_of_conversion(written), *describe_boxes(content, found))
    counts = len(entries), len(written["annotations"])
    report = Report(path, root, *counts, found.problems, notes, tuple(found.warnings))
    return _Examined(report, content, written, strict)


def _notes_of_conversion(written: dict[str, Any]) -> list[str]:
    """What `yolo_to_coco` has left out or clipped, in files that it made."""
    info = written.get("info")
    notes = info.get("notes") if isinstance(info, dict) else None
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
