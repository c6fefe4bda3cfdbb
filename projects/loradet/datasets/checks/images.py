"""The images of a file: an id each, a picture each, of the size that the picture has."""

import math
import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loradet.datasets.annotations.values import as_image_id, as_name, as_whole, show
from loradet.datasets.checks.findings import Findings
from loradet.datasets.checks.ids import FreshIds, key_of
from loradet.datasets.checks.pictures import Picture, PictureState, are_same

STRIP = 10.0  # longer edge over shorter, beyond which a picture is one


@dataclass(frozen=True)
class ListedImage:
    """An image as annotations find it.

    Attributes:
        entry: repaired.
        number: its id in the result.
        position: among the images that are kept; -1: it is dropped.
        limits: (width, height) that boxes are judged by, infinite where nothing is known.
        is_alias: it is found by the id of another entry of the same picture.
    """

    entry: dict
    number: int | str
    position: int
    limits: tuple[float, float]
    is_alias: bool = False


@dataclass
class ListedImages:
    """The images of a file, once they have been examined.

    Attributes:
        kept: repaired entries of pictures that are there.
        pictures: of these; None where they were not opened.
        by_key: what annotations find, by the key of their `image_id`.
        as_text: ids are texts, since one of them is a text that is no number.
    """

    as_text: bool
    kept: list[dict] = field(default_factory=list)
    pictures: list[Picture | None] = field(default_factory=list)
    by_key: dict[Any, ListedImage] = field(default_factory=dict)

    def meaning(self, given: Any) -> int | str | None:
        """The id that a value means."""
        number = as_image_id(given)
        return None if number is None else self.as_id(number)

    def as_id(self, number: int | str) -> int | str:
        return str(number) if self.as_text else number


def examine_images(
    entries: list[dict], states: list[PictureState] | None, root: Path | None, found: Findings
) -> ListedImages:
    """The images without those whose files are missing, broken, or there already under another id.

    Args:
        entries: as they are in the file.
        states: of their files; None: not opened, and sizes are taken as they are written.
        root: that file names are relative to.
        found: hears of problems and warnings.
    """
    images = ListedImages(any(type(as_image_id(entry.get("id"))) is str for entry in entries))
    fresh = FreshIds(lambda: (as_whole(entry.get("id")) for entry in entries))
    twins = _Twins(root)
    for position, entry in enumerate(entries):
        given, name = entry.get("id"), as_name(entry.get("file_name"))
        where = (given, name)
        if given is None or not name:
            found.add("broken image entry", f"image entry {position} lacks an id or a file_name", *where)
            continue
        number = images.meaning(given)
        key = key_of(number, given)
        if type(entry["file_name"]) is not str:
            found.add("odd value", f"file_name {show(entry['file_name'])} is read as {name!r}", *where)
        first = images.by_key.get(key)
        if first is not None:
            found.add("duplicate image id", f"its id is that of {first.entry['file_name']} too", *where)
            if first.entry["file_name"] == name:
                continue
            number = images.as_id(fresh.next_id())
        elif number is None:
            number = images.as_id(fresh.next_id())
            found.add("broken image id", f"its id is no whole number and no text; read as {number}", *where)
        elif type(number) is not type(given) or number != given:
            found.add("odd value", f"its id {show(given)} is read as {number!r}", *where)
        state = None if states is None else states[position]
        size = _size(entry, state, where, found)
        entry = {**entry, "id": number, "file_name": name}
        listed = ListedImage(entry, number, -1, _limits(entry))
        if size is not None:
            entry |= {"width": size[0], "height": size[1]}
            picture = state if isinstance(state, Picture) else None
            twin = twins.find(name, picture, len(images.kept))
            if twin is None:
                listed = ListedImage(entry, number, len(images.kept), size)
                images.kept.append(entry)
                images.pictures.append(picture)
                _warn(picture, size, where, found)
            else:
                other = images.kept[twin]
                message = f"it is the picture of image {other['id']} ({other['file_name']}) too"
                found.add("picture under two ids", message, *where)
                listed = ListedImage(other, other["id"], twin, (other["width"], other["height"]), is_alias=True)
        if first is None:
            images.by_key[key] = listed
    return images


class _Twins:
    """Finds pictures that were there before, by their file or by what they show."""

    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._by_name: dict[str, int] = {}
        self._by_pixels: dict[bytes, list[tuple[int, Path, Picture]]] = {}

    def find(self, name: str, picture: Picture | None, position: int) -> int | None:
        """The position of the first like this one; without one, this takes its own."""
        name = posixpath.normpath(name)
        if (first := self._by_name.setdefault(name, position)) != position:
            return first
        if picture is None or self._root is None:
            return None
        path = self._root / name
        alike = self._by_pixels.setdefault(picture.of_pixels, [])
        for twin, other_path, other in alike:
            if are_same((path, picture), (other_path, other)):
                self._by_name[name] = twin
                return twin
        alike.append((position, path, picture))
        return None


def _size(entry: dict, state: PictureState | None, where: tuple, found: Findings) -> tuple[int, int] | None:
    given = entry.get("width"), entry.get("height")
    sides = tuple(map(as_whole, given))
    if isinstance(state, str):
        found.add("missing image" if state == "missing" else "unreadable image", state, *where)
        return None
    if state is None and not all(side is not None and side > 0 for side in sides):
        found.add("no size", f"the JSON says {_sides(given)}, expected two whole numbers of pixels", *where)
        return None
    size = sides if state is None else state.size
    if sides != size:
        found.add("wrong size", f"the file is {size[0]}x{size[1]}, the JSON says {_sides(given)}", *where)
    elif any(type(side) is not int for side in given):
        found.add("odd value", f"its size {show(list(given))} is read as {size[0]}x{size[1]}", *where)
    return size


def _warn(picture: Picture | None, size: tuple[int, int], where: tuple, found: Findings) -> None:
    if max(size) > STRIP * min(size):
        message = f"{size[0]}x{size[1]}: cut it into pieces, else little is left of its shorter edge once resized"
        found.warn("strip", message, *where)
    if picture is None:
        return
    if picture.bits > 8:
        message = f"{picture.bits} bits a channel: say by data.intensity how they become what the model sees"
        found.warn("more than 8 bits", message, *where)
    if picture.blank:
        found.warn("picture of one value", "all its pixels are the same", *where)


def _sides(given: tuple[Any, Any]) -> str:
    """Width and height in words, as they are written."""
    return "no size" if given == (None, None) else "x".join(map(_side, given))


def _side(value: Any) -> str:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else show(value)


def _limits(image: dict) -> tuple[float, float]:
    width, height = as_whole(image.get("width")), as_whole(image.get("height"))
    return (width if width and width > 0 else math.inf), (height if height and height > 0 else math.inf)
