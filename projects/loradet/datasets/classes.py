"""Which categories of an annotation file are classes, and how many a model has: one source for all who ask."""

from collections.abc import Mapping, Sequence
from typing import Any

from loradet.datasets.annotations import Category, read_annotations
from loradet.datasets.annotations.table import find_heading
from loradet.datasets.annotations.values import as_name, as_whole
from loradet.datasets.files import PathLike


def real_categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The categories of a COCO file's content as written, less an empty heading above all the others.

    See `AnnotationFile.classes`, which says the same of a file that was read.
    """
    entries = content["categories"]
    annotated = {as_whole(entry.get("category_id")) for entry in content["annotations"]}
    categories = tuple(
        Category(as_whole(entry.get("id")), as_name(entry.get("name")), as_name(entry.get("supercategory")))
        for entry in entries
    )
    heading = find_heading(categories, annotated)
    return [entry for entry, category in zip(entries, categories) if category is not heading]


def count_classes(json_file: PathLike, classes: Sequence[str] | None = None) -> int:
    """How many classes a model of this data needs: those that are named, else the file's categories.

    An empty heading above all other categories is none; see `AnnotationFile.classes`.
    """
    return len(read_annotations(json_file).classes) if classes is None else len(classes)
