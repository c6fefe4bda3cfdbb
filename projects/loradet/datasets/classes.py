"""Number of classes, from one source: the names that the config gives, or the annotation file."""

from collections.abc import Sequence

from loradet.datasets.files import PathLike, read_coco


def count_classes(json_file: PathLike, classes: Sequence[str] | None = None) -> int:
    """How many classes a model of this data needs: those that are named, else the file's categories."""
    return len(read_coco(json_file)["categories"]) if classes is None else len(classes)
