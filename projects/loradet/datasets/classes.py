"""Which categories of an annotation file are classes, and how many a model has: one source for all who ask."""

from collections.abc import Mapping, Sequence
from typing import Any

from loradet.datasets.files import PathLike, read_coco


def real_categories(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The categories of a COCO file, less an empty heading above all the others.

    Roboflow's exports begin with such a one: id 0, the name of the project (often that of a class too), the
    `supercategory` of all others and itself in none, no annotation. A category that has an annotation always counts.
    """
    categories = content["categories"]
    annotated = {ann.get("category_id") for ann in content["annotations"]}
    for heading in categories:
        others = [entry for entry in categories if entry is not heading]
        if heading.get("name") is None or heading.get("id") in annotated or not others:
            continue
        if heading.get("supercategory") not in (None, "", "none"):  # a class that gave its name to a group
            continue
        if all(entry.get("supercategory") == heading["name"] for entry in others):
            return others
    return categories


def count_classes(json_file: PathLike, classes: Sequence[str] | None = None) -> int:
    """How many classes a model of this data needs: those that are named, else the file's categories.

    An empty heading above all other categories is none; see `real_categories`.
    """
    return len(real_categories(read_coco(json_file))) if classes is None else len(classes)
