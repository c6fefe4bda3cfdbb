"""Small COCO files out of large ones, the same on every machine."""

import hashlib
from collections.abc import Iterable
from typing import Any

from loradet.datasets.boxes import is_usable
from loradet.datasets.files import PathLike, read_coco, refuse_overwrite, write_coco


def make_subset(
    json_file: PathLike, output: PathLike, count: int, seed: int = 0, include_empty: bool = False
) -> dict[str, Any]:
    """Write `count` images and their annotations to another COCO file; the categories all stay.

    Images are ranked by a hash of (seed, image id), so the choice does not depend on the order in the file,
    and a larger subset of the same seed holds a smaller one.

    Args:
        json_file: COCO instances.
        output: JSON to write; may not be the input.
        count: images to keep.
        seed: another seed, another choice.
        include_empty: also draw images without any usable box; by default only those with one.

    Returns:
        The content written, sorted by id.

    Raises:
        FileNotFoundError, ValueError: broken input, repeated image ids, fewer than `count` images to choose.
    """
    output = refuse_overwrite(json_file, output)
    content = read_coco(json_file)
    images = {image.get("id"): image for image in content["images"]}
    if len(images) < len(content["images"]) or None in images:
        raise ValueError(
            f"{json_file}: image ids are missing or repeated. Repair it first: tools/datasets.py check --fix."
        )
    filled = {
        ann.get("image_id")
        for ann in content["annotations"]
        if is_usable(ann.get("bbox")) and not ann.get("iscrowd", 0)
    }
    candidates = list(images) if include_empty else [number for number in images if number in filled]
    if not 0 < count <= len(candidates):
        kind = "images" if include_empty else "images with boxes (empty ones are drawn too if asked)"
        raise ValueError(f"count={count}: {json_file} has {len(candidates)} {kind}; expected 1 to {len(candidates)}.")
    chosen = choose_ids(candidates, count, seed)
    subset = {key: value for key, value in content.items() if key not in ("images", "annotations")}
    subset["images"] = sorted((images[number] for number in chosen), key=_by_id)
    subset["annotations"] = sorted((ann for ann in content["annotations"] if ann.get("image_id") in chosen), key=_by_id)
    write_coco(output, subset)
    return subset


def choose_ids(image_ids: Iterable[Any], count: int, seed: int = 0) -> set[Any]:
    """The first `count` image ids (all, where there are fewer) by a hash of (seed, id), whatever their order."""
    return set(sorted(image_ids, key=lambda number: _rank(seed, number))[:count])


def _rank(seed: int, image_id: Any) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id!r}".encode()).digest()


def _by_id(entry: dict[str, Any]) -> tuple[str, Any]:
    number = entry.get("id")
    return type(number).__name__, number if number is not None else 0
