"""Finds what is wrong with a COCO data set before a training does, and writes a repaired copy.

One walk over the file does both: whatever it reports, it also repairs or drops.
"""

import math
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from loradet.datasets.boxes import parse_xywh, upright_size
from loradet.datasets.classes import real_categories
from loradet.datasets.files import PathLike, expand, read_coco, refuse_overwrite, write_coco

# Pixels that a box may reach over the image's edge: coordinates are often rounded.
TOLERANCE = 0.5
_THREADS = 4


@dataclass(frozen=True)
class Problem:
    """One fault: what kind, of which image (id and file name, None where it is of none), in words."""

    kind: str
    message: str
    image_id: Any = None
    file_name: str | None = None

    def __str__(self) -> str:
        where = "" if self.image_id is None else f"image {self.image_id}"
        where += f" ({self.file_name})" if self.file_name else ""
        return f"{where}: {self.message}" if where else self.message


@dataclass(frozen=True)
class Report:
    """What was found in one annotation file."""

    json_file: Path
    image_root: Path
    images: int
    annotations: int
    problems: list[Problem]

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
        return "\n".join(lines)


def check(json_file: PathLike, image_root: PathLike, *, progress: bool = False) -> Report:
    """Look for faults in a COCO file and its images; every image is decoded.

    Reported: missing and unreadable images, sizes that differ from the JSON, boxes outside the image (by more
    than `TOLERANCE`), without area or with NaN, duplicate ids of images, annotations and categories, unknown
    categories, annotations of absent images, entries that lack what they need.

    Raises:
        FileNotFoundError, ValueError: the file or the folder is missing, or the file is no COCO JSON at all.
    """
    return _examine(json_file, image_root, progress)[0]


def fix(json_file: PathLike, image_root: PathLike, output: PathLike, *, progress: bool = False) -> Report:
    """Write a copy in which `check` finds nothing; returns what it found in the input.

    Boxes are clipped, sizes corrected, duplicate ids numbered anew, categories of one name merged. What
    cannot be repaired is left out; missing and unreadable images take their annotations along. The
    annotations of a duplicate image or category id stay with its first entry.

    Raises:
        ValueError: `output` is the input itself; else as `check`.
    """
    output = refuse_overwrite(json_file, output)
    report, repaired = _examine(json_file, image_root, progress)
    write_coco(output, repaired)
    return report


def _examine(json_file: PathLike, image_root: PathLike, progress: bool) -> tuple[Report, dict[str, Any]]:
    path, root = expand(json_file), expand(image_root)
    content = read_coco(path)
    if not root.is_dir():
        raise FileNotFoundError(f"No image folder at {root}: expected the images of {path} there.")
    walk = _Walk()
    categories = walk.categories(real_categories(content))
    images = walk.images(content["images"], root, progress)
    annotations = walk.annotations(content["annotations"])
    report = Report(path, root, len(content["images"]), len(content["annotations"]), walk.problems)
    return report, {**content, "images": images, "annotations": annotations, "categories": categories}


@dataclass
class _Walk:
    """Examines the three lists in turn; each method returns the repaired list."""

    problems: list[Problem] = field(default_factory=list)
    category_ids: dict[int, int] = field(default_factory=dict)  # of the input -> of the result
    # By id as the annotations give it: the entry, and the size boxes must fit (None: image dropped).
    by_id: dict[Any, tuple[dict, tuple[int, int] | None]] = field(default_factory=dict)

    def categories(self, entries: list[dict]) -> list[dict]:
        kept: dict[int, dict] = {}
        fresh = _Fresh(entries)
        for position, entry in enumerate(entries):
            number, name = entry.get("id"), entry.get("name")
            if not _is_int(number) or name is None:
                self._add("broken category", f"category entry {position} lacks an integer id or a name: {entry}")
            elif number in kept:
                self._add("duplicate category id", f"category id {number} is {kept[number]['name']!r} and {name!r}")
                if name != kept[number]["name"]:
                    number = fresh.take()
                    kept[number] = {**entry, "id": number}
            else:
                kept[number] = entry
        by_name: dict[str, dict] = {}
        for number, entry in kept.items():
            first = by_name.setdefault(str(entry["name"]), entry)
            self.category_ids[number] = first["id"]
            if first is not entry:
                message = f"category ids {first['id']} and {number} are both {entry['name']!r}"
                self._add("duplicate category name", message)
        return list(by_name.values())

    def images(self, entries: list[dict], root: Path, progress: bool) -> list[dict]:
        kept: list[dict] = []
        fresh = _Fresh(entries)
        for position, (entry, state) in enumerate(_with_states(entries, root, progress)):
            number, name = entry.get("id"), entry.get("file_name")
            if not isinstance(number, (int, str)) or not isinstance(name, str):
                self._add("broken image entry", f"image entry {position} lacks an id or a file_name", number, name)
                continue
            first = self.by_id.get(number)
            if first is not None:
                self._add("duplicate image id", f"its id is that of {first[0]['file_name']} too", number, name)
                if first[0]["file_name"] == name:
                    continue
            if isinstance(state, str):
                self._add("missing image" if state == "missing" else "unreadable image", state, number, name)
            elif (entry.get("width"), entry.get("height")) != state:
                found, given = f"{state[0]}x{state[1]}", f"{entry.get('width')}x{entry.get('height')}"
                self._add("wrong size", f"the file is {found}, the JSON says {given}", number, name)
                entry = {**entry, "width": state[0], "height": state[1]}
            size = None if isinstance(state, str) else state
            if first is None:
                self.by_id[number] = entry, size
            elif size is not None:
                entry = {**entry, "id": fresh.take()}
            if size is not None:
                kept.append(entry)
        return kept

    def annotations(self, entries: list[dict]) -> list[dict]:
        kept: list[dict] = []
        fresh, seen = _Fresh(entries), set()
        for entry in entries:
            number, image_id = entry.get("id"), entry.get("image_id")
            known = self.by_id.get(image_id) if isinstance(image_id, (int, str)) else None
            where = (image_id, known[0]["file_name"] if known else None)
            if not _is_int(number) or number in seen:
                what = "is given twice" if number in seen else "is not an integer"
                self._add("duplicate annotation id", f"annotation id {number} {what}", *where)
                entry = {**entry, "id": fresh.take()}
            seen.add(entry["id"])
            if known is None:
                self._add(
                    "annotation of absent image",
                    f"annotation {number} is of an image that is not listed",
                    *where,
                )
                continue
            repaired = self._annotation(entry, known[1] or _listed_size(known[0]), where)
            if repaired is not None and known[1] is not None:
                kept.append(repaired)
        return kept

    def _annotation(self, entry: dict, size: tuple[float, float], where: tuple[Any, str | None]) -> dict | None:
        label = f"annotation {entry['id']}"
        if not _is_int(entry.get("category_id")) or entry["category_id"] not in self.category_ids:
            self._add("unknown category", f"{label} has category id {entry.get('category_id')}", *where)
            return None
        entry = {**entry, "category_id": self.category_ids[entry["category_id"]]}
        box = parse_xywh(entry.get("bbox"))
        if box is None:
            self._add("not a box", f"{label}: {entry.get('bbox')} is not four finite numbers", *where)
            return None
        x, y, width, height = box
        if width <= 0 or height <= 0:
            self._add("box without area", f"{label}: width {width:g}, height {height:g}", *where)
            return None
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
        beyond = max(-x, -y, x + width - size[0], y + height - size[1])
        if beyond > TOLERANCE or x0 >= x1 or y0 >= y1:
            image = f"{size[0]:g}x{size[1]:g}"
            self._add("box outside image", f"{label}: {list(box)} (XYWH) leaves the {image} image", *where)
            if x0 >= x1 or y0 >= y1:
                return None
            return {**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        area = entry.get("area", 0.0)
        if not isinstance(area, (int, float)) or not math.isfinite(area):
            self._add("broken area", f"{label}: area {area}", *where)
            return {**entry, "area": width * height}
        return entry

    def _add(self, kind: str, message: str, image_id: Any = None, file_name: str | None = None) -> None:
        self.problems.append(Problem(kind, message, image_id, file_name))


class _Fresh:
    """Ids that no entry has."""

    def __init__(self, entries: Iterable[dict]) -> None:
        self._last = max((entry["id"] for entry in entries if _is_int(entry.get("id"))), default=0)

    def take(self) -> int:
        self._last += 1
        return self._last


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed_size(image: dict) -> tuple[float, float]:
    width, height = image.get("width"), image.get("height")
    return (width if _is_int(width) else math.inf), (height if _is_int(height) else math.inf)


def _with_states(entries: list[dict], root: Path, progress: bool) -> Iterable[tuple[dict, Any]]:
    """Every image entry with its file's (width, height), or a line that says why it has none."""

    def state(entry: dict) -> tuple[int, int] | str:
        name = entry.get("file_name")
        return _decode(root / name) if isinstance(name, str) else "missing"

    with ThreadPoolExecutor(_THREADS) as pool:
        states: Iterable = pool.map(state, entries)
        if progress:
            from tqdm import tqdm

            states = tqdm(states, total=len(entries), unit="image", disable=None)
        yield from zip(entries, states)


def _decode(path: Path) -> tuple[int, int] | str:
    if not path.is_file():
        return "missing"
    try:
        with Image.open(path) as image:
            size = upright_size(image)
            image.draft(None, (image.width // 8, image.height // 8))  # JPEG: all data are read, few pixels made
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read: {error}"
    return size
