"""Small COCO files out of large ones, the same on every machine."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.datasets.annotations.content import without_nan
from loradet.datasets.files import PathLike, expand, output_path_of, read_coco, write_coco
from loradet.errors import UserError


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
        The content written, entries as they are in the input, sorted by id.

    Raises:
        MissingFileError, UserError: broken input (see `read_annotations`), fewer than `count` images to choose.
    """
    output = output_path_of(json_file, output)
    file = read_annotations(json_file)
    ids = np.array(file.images.ids, object)
    candidates = list(ids) if include_empty else list(ids[images_with_boxes(file)])
    if not 0 < count <= len(candidates):
        kind = "images" if include_empty else "images with boxes (empty ones are drawn too if asked)"
        raise UserError(f"count={count}: {json_file} has {len(candidates)} {kind}; expected 1 to {len(candidates)}.")
    chosen = choose_ids(candidates, count, seed)
    images = sorted((number, position) for position, number in enumerate(file.images.ids) if number in chosen)
    positions = {position for _, position in images}
    rows = [row for row, position in enumerate(file.boxes.image.tolist()) if position in positions]
    content = read_coco(expand(json_file))
    subset = {key: value for key, value in content.items() if key not in ("images", "annotations")}
    subset["images"] = [content["images"][position] for _, position in images]
    subset["annotations"] = [content["annotations"][row] for row in sorted(rows, key=file.boxes.ids.__getitem__)]
    if not file.plain:
        subset = without_nan(subset)
    write_coco(output, subset)
    return subset


def images_with_boxes(file: AnnotationFile) -> np.ndarray:
    """(N,) bool: images with a box to find, of any category that is listed or not."""
    boxes, found = file.boxes, np.zeros(len(file.images) + 1, bool)
    found[boxes.image[boxes.usable & ~boxes.crowd]] = True
    return found[:-1]


def choose_ids(image_ids: Iterable[Any], count: int, seed: int = 0) -> set[Any]:
    """The first `count` image ids (all, where there are fewer) by a hash of (seed, id), whatever their order."""
    return set(sorted(image_ids, key=lambda number: _rank(seed, number))[:count])


def _rank(seed: int, image_id: Any) -> bytes:
    return hashlib.sha256(f"{seed}:{image_id!r}".encode()).digest()
