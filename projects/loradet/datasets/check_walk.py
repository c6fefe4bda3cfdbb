"""The walk over the lists of a COCO file that finds every fault, and gives a repaired list of each."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loradet.datasets.annotations.values import (
    as_area,
    as_box,
    as_flag,
    as_image_id,
    as_name,
    as_number,
    as_whole,
    show,
)
from loradet.datasets.boxes import has_sides

# Pixels that a box may reach over the image's edge: coordinates are often rounded.
TOLERANCE = 0.5

ImageState = tuple[int, int] | str  # (width, height), or why there is none

ODD = "odd value"


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
class _Image:
    """An image as annotations find it: its entry, its id in the result, and its size (None: it is dropped)."""

    entry: dict
    number: int | str
    size: tuple[int, int] | None


class Walk:
    """Examines the three lists of a file: categories, then images, then annotations.

    Attributes:
        problems: what was found so far.
    """

    def __init__(self, images: list[dict]) -> None:
        self.problems: list[Problem] = []
        self._category_ids: dict[Any, int] = {}  # by the key of what the input has -> id in the result
        self._images: dict[Any, _Image] = {}
        # Where one id is a text that is no number, all are texts.
        self._as_text = any(type(as_image_id(entry.get("id"))) is str for entry in images)
        self._flags: Counter[str] = Counter()

    def add(self, kind: str, message: str, image_id: Any = None, file_name: str | None = None) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, message, image_id, file_name))

    def notes(self) -> tuple[str, ...]:
        """What is no fault and good to know."""
        lines = []
        if ignored := self._flags["ignore"]:
            lines.append(f"{ignored} boxes say ignore: they count as crowd regions, neither trained on nor to be found")
        kept, crowd = self._flags["kept"], self._flags["crowd"]
        if kept and kept == crowd:
            lines.append(f"all {kept} boxes are crowd regions: there is nothing to train on and nothing to find")
        return tuple(lines)

    def categories(self, entries: list[dict]) -> list[dict]:
        """The repaired categories: one an id and one a name."""
        kept: dict[int, dict] = {}
        keys: dict[int, Any] = {}
        fresh = _Fresh(as_whole(entry.get("id")) for entry in entries)
        for position, entry in enumerate(entries):
            given, number, name = entry.get("id"), as_whole(entry.get("id")), as_name(entry.get("name"))
            where = f"category entry {position}"
            if name is None or given is None:
                self.add("broken category", f"{where} lacks an integer id or a name: {show(entry)}")
                continue
            if number is None:
                number = fresh.take()
                self.add("broken category", f"{where}: id {show(given)} is no whole number; read as {number}")
            elif type(given) is not int:
                self.add(ODD, f"{where}: id {show(given)} is read as {number}")
            if type(entry["name"]) is not str:
                self.add(ODD, f"{where}: name {show(entry['name'])} is read as {name!r}")
            entry = {**entry, "id": number, "name": name}
            if number in kept:
                first = kept[number]["name"]
                self.add("duplicate category id", f"category id {number} is {first!r} and {name!r}")
                if name == first:
                    continue
                number = fresh.take()
                entry["id"] = number
                keys[number] = number
            else:
                keys[number] = _key(as_whole(given), given)
            kept[number] = entry
        by_name: dict[str, dict] = {}
        for number, entry in kept.items():
            first = by_name.setdefault(entry["name"], entry)
            self._category_ids[keys[number]] = first["id"]
            if first is not entry:
                message = f"category ids {first['id']} and {number} are both {entry['name']!r}"
                self.add("duplicate category name", message)
        return list(by_name.values())

    def images(self, entries: Iterable[tuple[dict, ImageState]]) -> list[dict]:
        """The repaired images, without those whose files are missing or broken."""
        entries = list(entries)
        kept: list[dict] = []
        fresh = _Fresh(as_whole(entry.get("id")) for entry, _ in entries)
        for position, (entry, state) in enumerate(entries):
            given, name = entry.get("id"), as_name(entry.get("file_name"))
            where = (given, name)
            if given is None or not name:
                self.add("broken image entry", f"image entry {position} lacks an id or a file_name", *where)
                continue
            number = self._image_id(given)
            key = _key(number, given)
            if type(entry["file_name"]) is not str:
                self.add(ODD, f"file_name {show(entry['file_name'])} is read as {name!r}", *where)
            first = self._images.get(key)
            if first is not None:
                self.add("duplicate image id", f"its id is that of {first.entry['file_name']} too", *where)
                if first.entry["file_name"] == name:
                    continue
                number = self._as_id(fresh.take())
            elif number is None:
                number = self._as_id(fresh.take())
                self.add("broken image id", f"its id is no whole number and no text; read as {number}", *where)
            elif type(number) is not type(given) or number != given:
                self.add(ODD, f"its id {show(given)} is read as {number!r}", *where)
            size = self._size(entry, state, where)
            entry = {**entry, "id": number, "file_name": name}
            if size is not None:
                entry |= {"width": size[0], "height": size[1]}
                kept.append(entry)
            if first is None:
                self._images[key] = _Image(entry, number, size)
        return kept

    def _size(self, entry: dict, state: ImageState, where: tuple[Any, str]) -> tuple[int, int] | None:
        if isinstance(state, str):
            self.add("missing image" if state == "missing" else "unreadable image", state, *where)
            return None
        given = entry.get("width"), entry.get("height")
        if tuple(map(as_whole, given)) != state:
            found, listed = f"{state[0]}x{state[1]}", "x".join(map(_side, given))
            self.add("wrong size", f"the file is {found}, the JSON says {listed}", *where)
        elif any(type(side) is not int for side in given):
            self.add(ODD, f"its size {show(list(given))} is read as {state[0]}x{state[1]}", *where)
        return state

    def annotations(self, entries: list[dict]) -> list[dict]:
        """The repaired annotations of the images that are kept."""
        kept: list[dict] = []
        seen: set[int] = set()
        fresh = _Fresh(as_whole(entry.get("id")) for entry in entries)
        for entry in entries:
            given, image_id = entry.get("id"), entry.get("image_id")
            known = None if image_id is None else self._images.get(_key(self._image_id(image_id), image_id))
            where = (image_id, known.entry["file_name"] if known else None)
            number = as_whole(given)
            if number is None or number in seen:
                what = "is not an integer" if number is None else "is given twice"
                self.add("duplicate annotation id", f"annotation id {show(given)} {what}", *where)
                number = fresh.take()
            elif type(given) is not int:
                self.add(ODD, f"annotation {number}: its id {show(given)} is read as {number}", *where)
            seen.add(number)
            label = f"annotation {number}"
            if known is None:
                self.add("annotation of absent image", f"{label} is of an image that is not listed", *where)
                continue
            if type(image_id) is not type(known.number) or image_id != known.number:
                self._convert(label, "image_id", image_id, known.number, where)
            entry = {**entry, "id": number, "image_id": known.number}
            repaired = self._annotation(label, entry, known.size or _listed_size(known.entry), where)
            if repaired is not None and known.size is not None:
                kept.append(repaired)
        return kept

    def _annotation(self, label: str, entry: dict, size: tuple[float, float], where: tuple) -> dict | None:
        given = entry.get("category_id")
        category = None if given is None else self._category_ids.get(_key(as_whole(given), given))
        if category is None:
            self.add("unknown category", f"{label} has category id {show(given)}", *where)
            return None
        if type(given) is not int and as_whole(given) is not None:
            self._convert(label, "category_id", given, as_whole(given), where)
        entry["category_id"] = category
        for key in ("iscrowd", "ignore"):
            if key in entry:
                entry[key] = self._flag(label, key, entry[key], where)
        box = as_box(entry.get("bbox"))
        if box is None:
            self.add("not a box", f"{label}: {show(entry.get('bbox'))} is not four finite numbers of pixels", *where)
            return None
        if any(type(number) is str for number in entry["bbox"]):
            self._convert(label, "bbox", entry["bbox"], list(box), where)
            entry["bbox"] = [as_number(number) for number in entry["bbox"]]
        x, y, width, height = box
        if not has_sides(box):
            self.add("box without area", f"{label}: width {width:g}, height {height:g}", *where)
            return None
        self._flags["kept"] += 1
        self._flags["ignore"] += bool(entry.get("ignore"))
        self._flags["crowd"] += bool(entry.get("ignore") or entry.get("iscrowd"))
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + width, size[0]), min(y + height, size[1])
        beyond = max(-x, -y, x + width - size[0], y + height - size[1])
        inside = has_sides((x0, y0, x1 - x0, y1 - y0))
        if beyond > TOLERANCE or not inside:
            image = f"{size[0]:g}x{size[1]:g}"
            self.add("box outside image", f"{label}: {list(box)} (XYWH) leaves the {image} image", *where)
            if not inside:
                return None
            return {**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        return self._with_area(label, entry, width * height, where)

    def _with_area(self, label: str, entry: dict, of_box: float, where: tuple) -> dict:
        if "area" not in entry:
            return entry
        given, area = entry["area"], as_area(entry["area"])
        if area is None:
            self.add("broken area", f"{label}: area {show(given)}, that of the box is {of_box:g}", *where)
            area = of_box
        elif type(given) is str:
            self._convert(label, "area", given, area, where)
        else:
            return entry
        return {**entry, "area": area}

    def _flag(self, label: str, key: str, given: Any, where: tuple) -> int:
        flag = as_flag(given)
        if flag is None:
            self.add(f"broken {key}", f"{label}: {key} is {show(given)}, neither 0 nor 1", *where)
            return 1
        if type(given) is not int:
            self._convert(label, key, given, int(flag), where)
        return int(flag)

    def _convert(self, label: str, key: str, given: Any, meant: Any, where: tuple) -> None:
        self.add(ODD, f"{label}: {key} {show(given)} is read as {meant!r}", *where)

    def _image_id(self, given: Any) -> int | str | None:
        number = as_image_id(given)
        return None if number is None else self._as_id(number)

    def _as_id(self, number: int | str) -> int | str:
        return str(number) if self._as_text else number


class _Fresh:
    """Ids that no entry has."""

    def __init__(self, ids: Iterable[int | None]) -> None:
        self._used = {number for number in ids if number is not None}
        highest = max(self._used, default=0)
        self._last = max(highest, 0) if highest < 2**31 else 0

    def take(self) -> int:
        self._last += 1
        while self._last in self._used:
            self._last += 1
        return self._last


def _key(meaning: Any, given: Any) -> Any:
    """What entries are found by: their meaning, else how they are written."""
    return ("as written", json.dumps(given, default=str)) if meaning is None else meaning


def _side(value: Any) -> str:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else show(value)


def _listed_size(image: dict) -> tuple[float, float]:
    width, height = as_whole(image.get("width")), as_whole(image.get("height"))
    return (width if width and width > 0 else math.inf), (height if height and height > 0 else math.inf)
