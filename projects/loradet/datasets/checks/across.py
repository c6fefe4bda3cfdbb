"""Checks across splits: images in two of them, and classes in one alone."""

import math
from collections.abc import Mapping
from pathlib import Path

from loradet.datasets.checks.findings import Findings
from loradet.datasets.checks.pictures import Picture, are_same
from loradet.datasets.checks.split_content import SplitContent

RATIO = 3.0  # of a class's shares in two splits, from which they are very different
DEVIATIONS = 4.0  # by which, at least, its boxes are then more or fewer than chance explains


def find_shared_pictures(contents: Mapping[str, SplitContent], found: Findings) -> None:
    """A problem for every picture of a split that is in one before it too, by what it shows."""
    seen: dict[bytes, list[tuple[str, dict, Path, Picture]]] = {}
    for name, content in contents.items():
        if content.image_root is None:
            continue
        new = []
        for entry, picture in zip(content.images.kept, content.images.pictures):
            path = content.image_root / entry["file_name"]
            for other_name, other, other_path, other_picture in seen.get(picture.of_pixels, ()):
                if are_same((path, picture), (other_path, other_picture)):
                    where = f"image {other['id']} ({other['file_name']}) in {other_name}"
                    message = f"it is in {name}, and shows the same as {where}"
                    found.add("same picture in two splits", message, entry["id"], entry["file_name"], split=name)
                    break
            new.append((picture.of_pixels, (name, entry, path, picture)))
        for key, one in new:
            seen.setdefault(key, []).append(one)


def compare_classes(contents: Mapping[str, SplitContent], found: Findings) -> None:
    """Warnings of classes that one split has and another has not, or in very different shares.

    The first split that has boxes is what the others are compared with; it should be the training split.
    """
    counts = {name: content.class_counts for name, content in contents.items()}
    counts = {name: of_split for name, of_split in counts.items() if any(of_split.values())}
    if len(counts) < 2:
        return
    first, *others = counts
    for other in others:
        classes = sorted(
            dict.fromkeys([*counts[first], *counts[other]]),
            key=lambda name: -max(counts[first].get(name, 0), counts[other].get(name, 0)),
        )
        totals = sum(counts[first].values()), sum(counts[other].values())
        for name in classes:
            pair = counts[first].get(name, 0), counts[other].get(name, 0)
            if pair[0] and not pair[1]:
                found.warn(
                    "class absent", f"{name!r}: {pair[0]} boxes in {first}, none in {other}: its AP there is NaN"
                )
            elif pair[1] and not pair[0]:
                found.warn(
                    "class absent", f"{name!r}: {pair[1]} boxes in {other}, none in {first}: it is never learned"
                )
            elif all(pair) and _differ(pair, totals):
                shares = [f"{100 * count / total:.3g} %" for count, total in zip(pair, totals)]
                message = f"{name!r}: {shares[0]} of the boxes in {first}, {shares[1]} in {other}"
                found.warn("class of very different shares", message)


def _differ(counts: tuple[int, int], totals: tuple[int, int]) -> bool:
    """Whether two shares differ by more than `RATIO`, and by more than chance (two proportions, pooled)."""
    first, second = (count / total for count, total in zip(counts, totals))
    pooled = sum(counts) / sum(totals)
    deviation = math.sqrt(pooled * (1 - pooled) * sum(1 / total for total in totals))
    return max(first, second) > RATIO * min(first, second) and abs(first - second) > DEVIATIONS * deviation
