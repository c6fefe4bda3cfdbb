"""The annotations of a file: what is wrong with each, and what it becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loradet.datasets.annotations.values import as_area, as_box, as_flag, as_number, as_whole, show
from loradet.datasets.boxes import LEAST_SIDE, TOLERANCE, has_sides
from loradet.datasets.checks.columns import Columns, columns_of
from loradet.datasets.checks.duplicates import repeated_boxes
from loradet.datasets.checks.findings import Findings
from loradet.datasets.checks.ids import FreshIds, key_of
from loradet.datasets.checks.images import ListedImage, ListedImages
from loradet.datasets.readers.fractions import Fractions, find_fractions, in_pixels, is_fraction


@dataclass(frozen=True)
class KeptBoxes:
    """What is kept of the annotations of a file, repaired: B boxes in the order of the file.

    Attributes:
        rows: (B,) their places in the file.
        ids: B of annotations.
        image: (B,) position among the kept images.
        category: (B,) ids.
        xywh: (B, 4) in pixels.
        crowd, ignored: (B,) bool.
        repaired: entries by row, of those that were changed.
    """

    rows: np.ndarray
    ids: list
    image: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    repaired: Mapping[int, dict]

    def entries(self, given: Sequence[dict]) -> list[dict]:
        """The repaired list of what was given."""
        return [self.repaired.get(row, given[row]) for row in self.rows.tolist()]


def examine_annotations(
    entries: list[dict], images: ListedImages, categories: Mapping[Any, int], found: Findings
) -> KeptBoxes:
    """The annotations that are right or can be repaired, of the images that are kept.

    Args:
        entries: as they are in the file.
        images, categories: what `examine_images` and `examine_categories` gave.
        found: hears of problems and warnings.
    """
    columns = columns_of(entries, images, categories)
    written = find_fractions(columns.xywh)
    if written is not None:
        columns.plain &= ~is_fraction(columns.xywh)
    walk = _Walk(entries, images, categories, columns, written, found)
    repaired = {row: entry for row in np.flatnonzero(~columns.plain).tolist() if (entry := walk.repair(row))}
    for row, entry in repaired.items():
        columns.ids[row] = entry["id"]
        columns.category[row] = entry["category_id"]
        columns.xywh[row] = entry["bbox"]
        columns.ignored[row] = bool(entry.get("ignore"))
        columns.crowd[row] = bool(entry.get("iscrowd")) or columns.ignored[row]
    kept = columns.plain
    kept[list(repaired)] = True
    rows = np.flatnonzero(kept & (columns.image >= 0))
    rows = _each_once(rows, columns, images, found)
    repaired |= _own_areas(rows, entries, repaired, columns, found)
    return KeptBoxes(
        rows,
        [columns.ids[row] for row in rows.tolist()],
        columns.image[rows],
        columns.category[rows],
        columns.xywh[rows],
        columns.crowd[rows],
        columns.ignored[rows],
        repaired,
    )


def _each_once(rows: np.ndarray, columns: Columns, images: ListedImages, found: Findings) -> np.ndarray:
    """The rows without those that say the same box of the same class as one before."""
    again = repeated_boxes(columns.image[rows], columns.category[rows], columns.xywh[rows], columns.crowd[rows])
    for place, first in again.items():
        row, image = int(rows[place]), images.kept[columns.image[rows[place]]]
        box = tuple(columns.xywh[row].tolist())
        message = (
            f"annotation {columns.ids[row]} is the box {_shown(box)} of annotation {columns.ids[rows[first]]} again"
        )
        found.add("duplicate box", message, image["id"], image["file_name"], box)
    return np.delete(rows, list(again))


def _own_areas(
    rows: np.ndarray, entries: Sequence[dict], repaired: Mapping[int, dict], columns: Columns, found: Findings
) -> dict[int, dict]:
    """Entries with the boxes' own areas, where a file says one number for boxes of all sizes."""
    first = None
    of_boxes = columns.xywh[rows, 2] * columns.xywh[rows, 3]
    if len(rows) < 3 or of_boxes.max() < 1.1 * of_boxes.min():
        return {}
    for row in rows.tolist():
        area = repaired.get(row, entries[row]).get("area")
        if area is None or (first is not None and area != first):
            return {}
        first = area
    found.add("constant area", f"all {len(rows)} annotations have the area {show(first)}, of boxes of different sizes")
    return {
        row: {**repaired.get(row, entries[row]), "area": area} for row, area in zip(rows.tolist(), of_boxes.tolist())
    }


def _shown(box: Sequence[float]) -> str:
    return "[{:.6g}, {:.6g}, {:.6g}, {:.6g}]".format(*box)


class _Walk:
    """Looks at one annotation after another, and repairs it."""

    def __init__(
        self,
        entries: list[dict],
        images: ListedImages,
        categories: Mapping[Any, int],
        columns: Columns,
        written: Fractions | None,
        found: Findings,
    ) -> None:
        self._entries = entries
        self._images = images
        self._categories = categories
        self._columns = columns
        self._written = written
        self._found = found
        self._fresh = FreshIds(lambda: (as_whole(entry.get("id")) for entry in entries))

    def repair(self, row: int) -> dict | None:
        """The repaired entry; None where it is left out."""
        entry = self._entries[row]
        given, image_id = entry.get("id"), entry.get("image_id")
        known = None if image_id is None else self._images.by_key.get(key_of(self._images.meaning(image_id), image_id))
        where = (image_id, known.entry["file_name"] if known else None)
        number = self._columns.ids[row]
        if number is None or self._columns.repeated[row]:
            what = "is not an integer" if number is None else "is given twice"
            self._found.add("duplicate annotation id", f"annotation id {show(given)} {what}", *where)
            number = self._fresh.next_id()
        elif type(given) is not int:
            self._found.add("odd value", f"annotation {number}: its id {show(given)} is read as {number}", *where)
        label = f"annotation {number}"
        if known is None:
            self._found.add("annotation of absent image", f"{label} is of an image that is not listed", *where)
            return None
        if not known.is_alias and (type(image_id) is not type(known.number) or image_id != known.number):
            self._convert(label, "image_id", image_id, known.number, where)
        self._columns.image[row] = known.position
        return self._annotation(label, {**entry, "id": number, "image_id": known.number}, known, where)

    def _annotation(self, label: str, entry: dict, image: ListedImage, where: tuple) -> dict | None:
        given = entry.get("category_id")
        category = None if given is None else self._categories.get(key_of(as_whole(given), given))
        if category is None:
            self._found.add("unknown category", f"{label} has category id {show(given)}", *where)
            return None
        if type(given) is not int and as_whole(given) is not None:
            self._convert(label, "category_id", given, as_whole(given), where)
        entry["category_id"] = category
        for key in ("iscrowd", "ignore"):
            if key in entry:
                entry[key] = self._flag(label, key, entry[key], where)
        box = as_box(entry.get("bbox"))
        if box is None:
            message = f"{label}: {show(entry.get('bbox'))} is not four finite numbers of pixels"
            self._found.add("not a box", message, *where)
            return None
        if any(type(number) is str for number in entry["bbox"]):
            self._convert(label, "bbox", entry["bbox"], list(box), where)
            entry["bbox"] = [as_number(number) for number in entry["bbox"]]
        if self._written is not None and is_fraction(np.array([box]))[0]:
            return self._scaled(label, entry, box, image, where)
        return self._clipped(label, entry, box, image.limits, where)

    def _scaled(self, label: str, entry: dict, box: tuple, image: ListedImage, where: tuple) -> dict | None:
        """The entry with a box that was written as fractions in pixels."""
        if not np.isfinite(image.limits).all():
            self._found.add("box as fractions", f"{label}: {_shown(box)}, of a picture of unknown size", *where)
            return None
        box_in_pixels = in_pixels(box, self._written, image.limits)
        message = f"{label}: {_shown(box)} are fractions ({self._written.value}), in pixels {_shown(box_in_pixels)}"
        self._found.add("box as fractions", message, *where, box_in_pixels)
        if min(box_in_pixels[2:]) < LEAST_SIDE:
            self._found.add("box under a pixel", f"{label}: {_sides(box_in_pixels)} pixels", *where, box_in_pixels)
            return None
        return {**entry, "bbox": list(box_in_pixels), "area": box_in_pixels[2] * box_in_pixels[3]}

    def _clipped(self, label: str, entry: dict, box: tuple, size: tuple[float, float], where: tuple) -> dict | None:
        x, y, width, height = box
        if not has_sides(box):
            self._found.add("box without area", f"{label}: width {width:g}, height {height:g}", *where)
            return None
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
        beyond = max(-x, -y, x + width - size[0], y + height - size[1])
        clipped = (x0, y0, x1 - x0, y1 - y0)
        inside = has_sides(clipped)
        if beyond > TOLERANCE or not inside:
            image = f"{size[0]:g}x{size[1]:g}"
            message = f"{label}: {list(box)} (XYWH) leaves the {image} image"
            self._found.add("box outside image", message, *where, box)
            if not inside or min(clipped[2:]) < LEAST_SIDE:
                return None
            return {**entry, "bbox": list(clipped), "area": clipped[2] * clipped[3]}
        if min(width, height) < LEAST_SIDE:
            self._found.add("box under a pixel", f"{label}: {_sides(box)} pixels", *where, box)
            return None
        return self._with_area(label, entry, width * height, where)

    def _with_area(self, label: str, entry: dict, of_box: float, where: tuple) -> dict:
        if "area" not in entry:
            return entry
        given, area = entry["area"], as_area(entry["area"])
        if area is None:
            self._found.add("broken area", f"{label}: area {show(given)}, that of the box is {of_box:g}", *where)
            area = of_box
        elif type(given) is str:
            self._convert(label, "area", given, area, where)
        else:
            return entry
        return {**entry, "area": area}

    def _flag(self, label: str, key: str, given: Any, where: tuple) -> int:
        flag = as_flag(given)
        if flag is None:
            self._found.add(f"broken {key}", f"{label}: {key} is {show(given)}, neither 0 nor 1", *where)
            return 1
        if type(given) is not int:
            self._convert(label, key, given, int(flag), where)
        return int(flag)

    def _convert(self, label: str, key: str, given: Any, meant: Any, where: tuple) -> None:
        self._found.add("odd value", f"{label}: {key} {show(given)} is read as {meant!r}", *where)


def _sides(box: Sequence[float]) -> str:
    return f"{box[2]:.3g} x {box[3]:.3g}"
