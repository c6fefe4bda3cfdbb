"""COCO instances files as Detectron2 data sets: dicts straight from a config, or registered by name."""

import difflib
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.datasets.annotations.faults import how_to_repair
from loradet.datasets.files import PathLike, expand, fingerprint
from loradet.datasets.ground_truth import ground_truth
from loradet.datasets.readers.coco_records import (
    boxes_over_the_edge,
    class_positions,
    is_large,
    left_out_boxes,
)
from loradet.datasets.readers.fractions import find_fractions
from loradet.datasets.readers.records import Records
from loradet.errors import MissingFileError, UserError
from loradet.remote import is_url, shown

logger = logging.getLogger(__name__)

# A larger share of the images that is left out is a warning.
_MANY = 0.1


def coco_dataset(
    json_file: PathLike,
    image_root: PathLike,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    filter_empty: bool = False,
    classes_from: PathLike | None = None,
    min_size: int = 0,
) -> Records:
    """Load a COCO instances file as Detectron2 dataset dicts, and register it for `COCOEvaluator(name)`.

    Crowd boxes keep `iscrowd`; boxes without area and annotations of other classes are left out, with a
    logged count. Segmentations are not read. A box that says `ignore` counts as crowd.

    Args:
        json_file: the annotations, also by URL; `~` and `$VARS` are expanded here and in `image_root`.
        image_root: folder that `file_name` is relative to.
        classes: class names in the order of the contiguous ids; None: the file's categories by ascending id, less an
            empty heading above all others (see `AnnotationFile.classes`). One that this file lacks is allowed, with a
            warning (its AP is NaN), if another one is there.
        name: to register under. None: made from the file's name, content and classes; its metadata tell it.
        filter_empty: leave out images without a box that can be trained on.
        classes_from: where `classes` is None, take the categories of this COCO file instead; the training
            file, so that a split that lists fewer categories keeps the same contiguous ids.
        min_size: leave out images whose shorter edge has fewer pixels, in evaluation too.

    Returns:
        A sequence of dicts with file_name, height, width, image_id, annotations (bbox as XYWH_ABS, contiguous
        category_id), each made when it is asked for; `list` of it gives dicts to change.

    Raises:
        MissingFileError: the file, the image folder or all images are missing.
        UserError: a broken file (see `read_annotations`), one without images, or of which none is left; boxes that are
            fractions; no class matches, or `name` stands for other data already.
    """
    file = read_annotations(json_file)
    if classes is None and classes_from is not None:
        classes = _class_names(read_annotations(classes_from), None)
    source = _register(file, image_root, classes, name, min_size, _origin(json_file, file))
    _log_what_was_read(file, source)
    labels = class_positions(file, source.classes)[file.boxes.category]
    return Records(file, source.image_root, labels, _choose(file, source, filter_empty))


def register_coco(name: str, json_file: PathLike, image_root: PathLike, classes: Sequence[str] | None = None) -> None:
    """Register a COCO instances file in DatasetCatalog and MetadataCatalog, as `coco_dataset` does.

    The same data may be registered again under its name; other data may not (UserError).
    """
    file = read_annotations(json_file)
    _register(file, image_root, classes, name, origin=_origin(json_file, file))


@dataclass(frozen=True)
class _Source:
    """What a registered name stands for."""

    json_file: Path
    image_root: Path
    classes: tuple[str, ...]
    content: str  # fingerprint of the file
    min_size: int = 0

    def load(self) -> list[dict[str, Any]]:
        file = read_annotations(self.json_file)
        labels = class_positions(file, self.classes)[file.boxes.category]
        return list(Records(file, self.image_root, labels, is_large(file, self.min_size)))


_registered: dict[str, _Source] = {}


def _origin(json_file: PathLike, file: AnnotationFile) -> str:
    """What the annotations are called: a file, or the URL that it was fetched from, if that is no secret."""
    url = str(json_file)
    return url if is_url(url) and shown(url) == url else str(file.path)


def _register(
    file: AnnotationFile,
    image_root: PathLike,
    classes: Sequence[str] | None,
    name: str | None,
    min_size: int = 0,
    origin: str = "",
) -> _Source:
    if is_url(image_root):
        raise UserError(f"{image_root}: images are read from a folder on this machine; annotations may have a URL.")
    path, root = file.path, expand(image_root).absolute()
    _check_images(file, root)
    source = _Source(path, root, _class_names(file, classes), file.fingerprint, min_size)
    if not len(file.images):
        raise UserError(f"{path} lists no images; expected one entry of `images` for each image in {root}.")
    _refuse_fractions(file)
    name = name or f"{path.stem}_{fingerprint(source)[:8]}"
    if name in DatasetCatalog:
        if _registered.get(name) != source:
            raise UserError(
                f"The data set name {name!r} stands for {_registered.get(name, 'other data')}, "
                f"so it cannot stand for {source} too. Choose another name, or remove the old one: "
                f"DatasetCatalog.remove({name!r})."
            )
        return source
    evaluated, ids = ground_truth(file, source.classes, is_large(file, min_size))
    if evaluated != path:
        logger.info("%s is evaluated by its copy %s.", path, evaluated)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)  # left over from a data set that was removed from DatasetCatalog
    if absent := _absent_classes(file, source.classes):
        logger.warning("%s. Evaluation gives NaN there.", absent)
    MetadataCatalog.get(name).set(
        absent_classes=absent,
        json_file=str(evaluated),
        image_root=str(root),
        evaluator_type="coco",
        thing_classes=list(source.classes),
        thing_dataset_id_to_contiguous_id=ids,
        source=origin or str(path),
        fingerprint=source.content,
        num_images=len(file.images),
        num_annotations=len(file.boxes.ids),
        category_ids=_category_ids(file, source.classes),
        synthetic=file.synthetic,
    )
    DatasetCatalog.register(name, source.load)
    _registered[name] = source
    return source


def _check_images(file: AnnotationFile, root: Path) -> None:
    """Fail early on what would otherwise end a training in its first epoch."""
    if not root.is_dir():
        raise MissingFileError(f"No image folder at {root} (image_root of {file.path}).")
    first = list(itertools.islice(file.images.file_names, 8))
    if first and not any(_is_file(root, file_name) for file_name in first):
        raise MissingFileError(
            f"None of the first images of {file.path} is in {root}, as {root / first[0]}. "
            "Expected image_root to be the folder that their file_name is relative to."
        )


def _refuse_fractions(file: AnnotationFile) -> None:
    """Raise where boxes are fractions of their image's sides: as pixels all of them would be one corner."""
    known = np.flatnonzero(file.boxes.known)
    written = find_fractions(file.boxes.xywh[known])
    if written is not None:
        box, id_ = file.boxes.xywh[known[0]].tolist(), file.boxes.ids[known[0]]
        raise UserError(
            f"{file.path}: boxes are fractions of the image's sides ({written.value}), as {box} of annotation {id_}; "
            f"expected pixels. {how_to_repair(file.path)}"
        )


def _is_file(root: Path, file_name: str) -> bool:
    try:
        return (root / file_name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _class_names(file: AnnotationFile, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes in contiguous order, checked against the file's categories."""
    present = [category.name for category in file.classes]
    if not present:
        raise UserError(f"{file.path}: categories is empty; expected an entry with an integer id and a name a class.")
    if classes is None:
        return tuple(present)
    names = () if isinstance(classes, str) else tuple(str(name) for name in classes)
    if not names or len(set(names)) < len(names):
        raise UserError(f"classes={classes!r}: expected a list of distinct names; {file.path} has {present}.")
    if not set(names) & set(present):
        raise UserError(f"{file.path} has none of the classes {list(names)}; it has {present}.")
    return names


def _category_ids(file: AnnotationFile, classes: Sequence[str]) -> list[int]:
    """The file's own ids of the classes; [] where it lacks one."""
    ids = {category.name: category.id for category in file.classes}
    return [ids[name] for name in classes] if set(classes) <= ids.keys() else []


def _absent_classes(file: AnnotationFile, classes: Sequence[str]) -> str:
    """Which classes a file does not know, in words; "" where it knows all."""
    present = [category.name for category in file.classes]
    absent = [name for name in classes if name not in present]
    near = {name: difflib.get_close_matches(name.lower(), [other.lower() for other in present], n=1) for name in absent}
    meant = {name: next(p for p in present if p.lower() == match[0]) for name, match in near.items() if match}
    hint = "".join(f" ({name!r}: meant {other!r}?)" for name, other in meant.items())
    return f"{file.path} has no category {absent}{hint}; it has {present}" if absent else ""


def _log_what_was_read(file: AnnotationFile, source: _Source) -> None:
    boxes = file.boxes
    wanted = boxes.known & (class_positions(file, source.classes)[boxes.category] >= 0)
    count, crowd = int(wanted.sum()), int((wanted & boxes.crowd).sum())
    level = logging.INFO if count else logging.WARNING
    logger.log(level, "%s: %d images, %d boxes.", file.path, len(file.images), count)
    if file.converted:
        counts = ", ".join(f"{number} {what}" for what, number in file.converted.items())
        logger.info("%s: not written as COCO has it, and read for what it means: %s.", file.path, counts)
    for heading in (category for category in file.categories if category not in file.classes):
        what = "left out category %r (id %s), a heading above the others without annotations."
        logger.info(f"%s: {what}", file.path, heading.name, heading.id)
    for reason, number in left_out_boxes(file, source.classes).items():
        logger.warning("%s: left out %d annotations %s.", file.path, number, reason)
    over, outside = (int((wanted & found).sum()) for found in boxes_over_the_edge(file))
    if over:
        level = logging.WARNING if outside or over > _MANY * count else logging.INFO
        what = "%s: %d of %d boxes reach over the edge of their image, %d of them lie outside of it; check lists them."
        logger.log(level, what, file.path, over, count, outside)
    if count and crowd == count:
        logger.warning("%s: %s.", file.path, _all_crowd(file, wanted))


def _all_crowd(file: AnnotationFile, wanted: np.ndarray) -> str:
    ignored = int((wanted & file.boxes.ignored).sum())
    by_ignore = f" ({ignored} of them by ignore)" if ignored else ""
    return (
        f"all of its {int(wanted.sum())} boxes are crowd regions (iscrowd 1, as exports with RLE masks have it)"
        f"{by_ignore}: nothing to train on and nothing to find. If they are single objects, set iscrowd to 0"
    )


def _choose(file: AnnotationFile, source: _Source, filter_empty: bool) -> np.ndarray:
    """(N,) bool: the images to use; the log says how many are left out, by reason."""
    boxes = file.boxes
    kept = is_large(file, source.min_size)
    left_out = Counter({f"under {source.min_size} pixels": int((~kept).sum())})
    wanted = boxes.known & (class_positions(file, source.classes)[boxes.category] >= 0)
    if filter_empty:
        to_find, crowded = (np.zeros(len(kept), bool) for _ in range(2))
        to_find[boxes.image[wanted & ~boxes.crowd]] = True
        crowded[boxes.image[wanted & boxes.crowd]] = True
        left_out["without boxes"] = int((kept & ~to_find & ~crowded).sum())
        left_out["with nothing but crowd regions"] = int((kept & ~to_find & crowded).sum())
        kept &= to_find
    left_out = +left_out
    if not kept.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        crowd = f"; {_all_crowd(file, wanted)}" if wanted.any() and boxes.crowd[wanted].all() else ""
        dropped = "".join(f"; {n} annotations {what}" for what, n in left_out_boxes(file, source.classes).items())
        raise UserError(f"{file.path}: none of its {len(kept)} images can be used: {reasons}{crowd}{dropped}.")
    level = logging.WARNING if left_out.total() > _MANY * len(kept) else logging.INFO
    for reason, count in left_out.items():
        logger.log(level, "%s: left out %d images %s.", file.path, count, reason)
    return kept
