"""One COCO file to train, val and test: every class in its share everywhere, and groups of images together.

Iterative stratification: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", 2011.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.datasets.annotations.content import without_nan
from loradet.datasets.files import PathLike, expand, read_coco, write_coco
from loradet.errors import UserError

_PATTERN = "re:"  # begins a group that is a regular expression
_EMPTY, _IMAGES = -1, -2  # stand beside the positions of categories: images without boxes, all images


@dataclass
class _Group:
    """Images that stay together: their positions, and the classes that each of them shows, counted."""

    key: str
    images: list[int] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)


def split_coco(
    json_file: PathLike,
    output: PathLike,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    group_by: str | None = None,
) -> dict[str, Path]:
    """Write the images of a COCO file, with all their annotations, to `train.json`, `val.json` and `test.json`.

    Each class has its share of images in every file, as far as whole groups allow. The result depends on the seed and
    the images alone, not on their order. Entries and categories stay as they are written.

    Args:
        json_file: COCO instances.
        output: folder of the files; it is made where there is none, but no file in it is overwritten.
        val, test: share of the images, from 0 on; 0: no such file. What is left trains.
        seed: another seed, another split.
        group_by: keeps images together that have one value: a key of the entries in `images`, or `re:` and a regular
            expression that is found in `file_name` (its first group, else all that it matches).

    Returns:
        the files by split.

    Raises:
        MissingFileError, UserError: broken input (see `read_annotations`), shares that leave nothing to train on, a
            split that would be empty, images without a group, or files that are there already.
    """
    shares = _shares(val, test)
    folder = expand(output)
    files = {split: folder / f"{split}.json" for split in shares}
    if held := [str(file) for file in files.values() if file.exists()]:
        raise UserError(f"{', '.join(held)}: there already, and never overwritten. Choose another folder.")
    file = read_annotations(json_file)
    content = read_coco(expand(json_file))
    groups = _groups(file, content["images"], group_by)
    if len(groups) < len(shares):
        what = "images" if group_by is None else f"groups of images (--group-by {group_by})"
        raise UserError(f"{json_file}: {len(groups)} {what} cannot make {len(shares)} splits ({', '.join(shares)}).")
    chosen = _stratify(groups, list(shares.values()), seed)
    parts = {}
    for number, split in enumerate(shares):
        positions = sorted(i for group, part in zip(groups, chosen) if part == number for i in group.images)
        parts[split] = _part(file, content, positions)
    for split, part in parts.items():
        write_coco(files[split], part)
    return files


def _shares(val: float, test: float) -> dict[str, float]:
    for name, share in (("val", val), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise UserError(f"{name}={share}: expected a share of the images, from 0 to below 1.")
    if val + test >= 1.0:
        raise UserError(f"val={val} and test={test} leave nothing to train on: together they take less than 1.")
    if not val + test:
        raise UserError("val=0 and test=0: there is nothing to split off.")
    return {split: share for split, share in (("train", 1.0 - val - test), ("val", val), ("test", test)) if share}


def _groups(file: AnnotationFile, entries: list[dict[str, Any]], group_by: str | None) -> list[_Group]:
    """Groups in an order of their own, whatever that of the file."""
    keys = [repr(number) for number in file.images.ids] if group_by is None else _keys(file, entries, group_by)
    groups: dict[str, _Group] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, _Group(key)).images.append(position)
    boxes = file.boxes
    known = boxes.known
    shown = set(zip(boxes.image[known].tolist(), boxes.category[known].tolist()))
    for image, category in shown:
        groups[keys[image]].classes[category] += 1
    for position in set(range(len(keys))) - {image for image, _ in shown}:
        groups[keys[position]].classes[_EMPTY] += 1  # images without boxes are shared out like a class
    return [groups[key] for key in sorted(groups)]


def _keys(file: AnnotationFile, entries: list[dict[str, Any]], group_by: str) -> list[str]:
    if group_by.startswith(_PATTERN):
        try:
            pattern = re.compile(group_by.removeprefix(_PATTERN))
        except re.error as error:
            raise UserError(f"--group-by {group_by!r} is no regular expression: {error}.") from error
        matches = [pattern.search(name) for name in file.images.file_names]
        keys = [match and (match[1] if pattern.groups else match[0]) for match in matches]
    else:
        keys = [None if (value := entry.get(group_by)) is None else repr(value) for entry in entries]
    absent = [name for name, key in zip(file.images.file_names, keys) if key is None]
    if absent:
        what = "does not match" if group_by.startswith(_PATTERN) else "is no key of"
        found = "" if group_by.startswith(_PATTERN) else f"; keys there: {', '.join(map(str, entries[0]))}"
        raise UserError(
            f"{file.path}: --group-by {group_by!r} {what} {len(absent)} of {len(keys)} images ({absent[0]}, for "
            f"example){found}."
        )
    return [key for key in keys if key is not None]


def _stratify(groups: list[_Group], shares: list[float], seed: int) -> list[int]:
    """The number of the part that each group goes to.

    The rarest class that is left is shared out first. Each of its groups goes where it lowers most, or raises least,
    the sum of (number - expected number)^2 / expected number over the parts' classes and images.
    """
    totals: Counter[int] = Counter()
    for group in groups:
        totals.update(_numbers(group))
    expected = {name: np.array(shares) * count for name, count in totals.items()}
    lacks = {name: numbers.copy() for name, numbers in expected.items()}
    holders: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        for name in group.classes:
            holders.setdefault(name, []).append(number)
    left = Counter({name: count for name, count in totals.items() if name != _IMAGES})
    waiting = set(range(len(groups)))
    chosen = [0] * len(groups)
    order = {number: _rank(seed, group.key) for number, group in enumerate(groups)}
    while waiting:
        rarest = min((name for name, count in left.items() if count), key=lambda name: (left[name], name))
        # Large groups first: small ones can still even out.
        members = [number for number in holders[rarest] if number in waiting]
        for number in sorted(members, key=lambda n: (-len(groups[n].images), order[n])):
            counts = _numbers(groups[number])
            changes = sum(count * (count - 2 * lacks[name]) / expected[name] for name, count in counts.items())
            part = int(np.argmin(np.round(changes, 9)))
            chosen[number] = part
            for name, count in counts.items():
                lacks[name][part] -= count
            left.subtract(groups[number].classes)
        waiting -= set(members)
    return _none_empty(groups, chosen, order, len(shares))


def _numbers(group: _Group) -> dict[int, int]:
    """What is shared out with a group: images of each class, and images."""
    return {**group.classes, _IMAGES: len(group.images)}


def _none_empty(groups: list[_Group], chosen: list[int], order: dict[int, bytes], parts: int) -> list[int]:
    """The same with the smallest group of the fullest part moved to each part that got none."""
    for part in range(parts):
        if part not in chosen:
            fullest = Counter(chosen).most_common(1)[0][0]
            members = [number for number, held in enumerate(chosen) if held == fullest]
            chosen[min(members, key=lambda n: (len(groups[n].images), order[n]))] = part
    return chosen


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()


def _part(file: AnnotationFile, content: dict[str, Any], positions: list[int]) -> dict[str, Any]:
    """The content of some images, entries as they are written."""
    chosen = np.zeros(len(file.images) + 1, bool)
    chosen[positions] = True
    rows = np.flatnonzero(chosen[file.boxes.image])  # -1, of no image, is the last
    part = {key: value for key, value in content.items() if key not in ("images", "annotations")}
    part["images"] = [content["images"][position] for position in positions]
    part["annotations"] = [content["annotations"][row] for row in rows.tolist()]
    return part if file.plain else without_nan(part)


def describe_split(files: dict[str, Path]) -> str:
    """A table of what was written: images and boxes, and images of each class, by split."""
    from tabulate import tabulate

    read = {split: read_annotations(file) for split, file in files.items()}
    first = next(iter(read.values()))
    rows: list[list[Any]] = [
        ["images", *(len(one.images) for one in read.values())],
        ["boxes", *(int(one.boxes.known.sum()) for one in read.values())],
    ]
    for category in sorted(first.categories, key=lambda one: one.id):
        counts = []
        for one in read.values():
            position = [other.id for other in one.categories].index(category.id)
            counts.append(len(np.unique(one.boxes.image[one.boxes.known & (one.boxes.category == position)])))
        if any(counts):
            rows.append([f"images with {category.name}", *counts])
    return tabulate(rows, headers=["", *read])
