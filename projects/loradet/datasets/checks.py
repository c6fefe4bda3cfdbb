"""Finds what is wrong with a COCO data set before a training does, and writes a repaired copy.

One walk over the file does both: whatever it reports, it also repairs or drops.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from loradet.datasets.annotations.content import decode_content, encoding_fault, is_strict_json, read_bytes, without_nan
from loradet.datasets.annotations.values import as_name
from loradet.datasets.check_walk import TOLERANCE, ImageState, Problem, Walk
from loradet.datasets.classes import real_categories
from loradet.datasets.files import PathLike, expand, refuse_overwrite, write_coco
from loradet.datasets.image_decoding import decoded_size
from loradet.datasets.image_header import depth_notes
from loradet.errors import MissingFileError

__all__ = ["TOLERANCE", "Problem", "Report", "check", "fix"]

_THREADS = 4


@dataclass(frozen=True)
class Report:
    """What was found in one annotation file; `notes` are lines of what is no fault and good to know."""

    json_file: Path
    image_root: Path
    images: int
    annotations: int
    problems: list[Problem]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Number of problems by kind."""
        return dict(Counter(problem.kind for problem in self.problems))

    def text(self, limit: int = 20) -> str:
        """The report for people, at most `limit` lines of each kind."""
        size = f"{self.images} images, {self.annotations} annotations"
        lines = [f"{self.json_file}: {size}, {len(self.problems) or 'no'} problem{'s' * (len(self.problems) != 1)}"]
        for kind, count in self.counts().items():
            lines.append(f"  {kind}: {count}")
            lines += [f"    {problem}" for problem in self.problems if problem.kind == kind][:limit]
            if count > limit:
                lines.append(f"    … and {count - limit} more")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def check(json_file: PathLike, image_root: PathLike, *, progress: bool = False) -> Report:
    """Look for faults in a COCO file and its images; every image is decoded.

    Reported: missing and unreadable images, sizes that differ from the JSON, boxes outside the image (by more
    than `TOLERANCE`), without area or with NaN, duplicate ids of images, annotations and categories, unknown
    categories, annotations of absent images, entries that lack what they need, values that are not written as COCO
    has them (and are read for what they mean, or have not one meaning), and what is no JSON to other tools.

    Raises:
        MissingFileError, UserError: the file or the folder is missing, or the file is no COCO JSON at all.
    """
    return _examine(json_file, image_root, progress)[0]


def fix(json_file: PathLike, image_root: PathLike, output: PathLike, *, progress: bool = False) -> Report:
    """Write a copy in which `check` finds nothing; returns what it found in the input.

    Boxes are clipped, sizes corrected, duplicate ids numbered anew, categories of one name merged, values written as
    COCO has them. A flag that is neither 0 nor 1 becomes 1: its box is kept as a crowd region, neither trained on nor
    counted. What cannot be repaired is left out; missing and unreadable images take their annotations along. The
    annotations of a duplicate image or category id stay with its first entry.

    Raises:
        UserError: `output` is the input itself; else as `check`.
    """
    output = refuse_overwrite(json_file, output)
    report, repaired = _examine(json_file, image_root, progress)
    write_coco(output, repaired)
    return report


def _examine(json_file: PathLike, image_root: PathLike, progress: bool) -> tuple[Report, dict[str, Any]]:
    path, root = expand(json_file), expand(image_root)
    data = read_bytes(path)
    content = decode_content(data, path)
    if not root.is_dir():
        raise MissingFileError(f"No image folder at {root}: expected the images of {path} there.")
    walk = Walk(content["images"])
    fault, strict = encoding_fault(data), is_strict_json(data)
    if fault is None and not strict:
        fault = "it has NaN, Infinity or halves of surrogate pairs"
    if fault is not None:
        walk.add("odd encoding", f"{fault}, so that other tools cannot read it")
    del data
    categories = walk.categories(real_categories(content))
    images = walk.images(_with_states(content["images"], root, progress))
    annotations = walk.annotations(content["annotations"])
    counts = len(content["images"]), len(content["annotations"])
    files = [root / name for name in map(as_name, (entry.get("file_name") for entry in content["images"])) if name]
    report = Report(path, root, *counts, walk.problems, (*walk.notes(), *depth_notes(files)))
    repaired = {**content, "images": images, "annotations": annotations, "categories": categories}
    return report, repaired if strict else without_nan(repaired)


def _with_states(entries: list[dict], root: Path, progress: bool) -> Iterable[tuple[dict, ImageState]]:
    """Every image entry with its file's (width, height), or a line that says why it has none."""

    def state(entry: dict) -> ImageState:
        name = as_name(entry.get("file_name"))
        return _decode(root / name) if name else "missing"

    with ThreadPoolExecutor(_THREADS) as pool:
        states: Iterable = pool.map(state, entries)
        if progress:
            from tqdm import tqdm

            states = tqdm(states, total=len(entries), unit="image", disable=None)
        yield from zip(entries, states)


def _decode(path: Path) -> ImageState:
    try:
        if not path.is_file():
            return "missing"
    except (OSError, ValueError):  # a name that no file can have
        return "missing"
    try:
        return decoded_size(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read: {error}"
