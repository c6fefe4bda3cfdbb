"""The annotation file whose image and category ids a run's detections have.

Detections are numbered as the file that the run was evaluated with. That may be a copy of the user's own: of YOLO
labels, of a choice of classes, of an export with a heading. A file with other numbers would give numbers without sense.
"""

import os
from pathlib import Path
from typing import Any

from loradet.datasets.annotations import AnnotationFile, read_annotations
from loradet.errors import MissingFileError, UserError
from loradet.files import read_json, write_json

FILE = "numbering.json"  # beside the detections
_ADVICE = "Delete it, and name the annotations by hand."
MAX_DETECTIONS = 100  # of a class in an image, as in COCO's main metrics

PathLike = str | os.PathLike


def write_category_map(predictions: PathLike, annotations: PathLike, max_detections: int = MAX_DETECTIONS) -> None:
    """Note beside a detections file which annotations it belongs to, and how many detections of an image count."""
    note = {
        "annotations": str(Path(annotations).absolute()),
        "categories": {str(number): name for number, name in _categories(read_annotations(annotations)).items()},
        "max_dets_per_image": max_detections,
    }
    write_json(Path(predictions).with_name(FILE), note)


def recorded_max_detections(predictions: PathLike) -> int:
    """How many detections of an image count in the metrics of a detections file: what was noted beside it, else 100.

    Raises:
        UserError: the note is broken.
    """
    limit = (_noted(predictions) or {}).get("max_dets_per_image", MAX_DETECTIONS)
    if type(limit) is not int or limit < 1:
        path = Path(predictions).with_name(FILE)
        raise UserError(f"{path}: max_dets_per_image is {limit!r}, expected a whole number above 0.")
    return limit


def recorded_annotations(predictions: PathLike) -> Path:
    """The annotation file that was noted beside detections.

    Raises:
        MissingFileError: none was, or it is gone.
    """
    noted = _noted(predictions)
    if noted is None:
        raise MissingFileError(
            f"Nothing beside {predictions} says which annotations it belongs to: give --annotations FILE."
        )
    path = Path(noted["annotations"])
    if not path.is_file():
        raise MissingFileError(f"{predictions} belongs to {path}, which is gone: evaluate anew, or name a copy of it.")
    return path


def check_category_map(predictions: PathLike, annotations: PathLike) -> None:
    """Raise UserError where detections are numbered otherwise than an annotation file, as far as their note tells.

    Without a note, as beside detections of other tools, nothing is compared.
    """
    noted = _noted(predictions)
    if noted is None or Path(noted["annotations"]) == Path(annotations).absolute():
        return
    where = f"{predictions} is numbered as {noted['annotations']}, not as {annotations}"
    file = read_annotations(annotations)
    categories = {str(number): name for number, name in _categories(file).items()}
    for number, name in noted["categories"].items():
        if categories.get(number) != name:
            there = repr(categories[number]) if number in categories else "nothing"
            raise UserError(f"{where}: category {number} is {name!r} here and {there} there. Give the former file.")
    if not Path(noted["annotations"]).is_file():
        return
    images = _images(file)
    for number, name in _images(read_annotations(noted["annotations"])).items():
        if (there := images.get(number, "missing")) != name:
            raise UserError(f"{where}: image {number} is {name} here and {there} there. Give the former file.")


def _noted(predictions: PathLike) -> dict[str, Any] | None:
    path = Path(predictions).with_name(FILE)
    if not path.is_file():
        return None
    noted = read_json(path, advice=_ADVICE)
    if not isinstance(noted.get("annotations"), str) or not isinstance(noted.get("categories"), dict):
        raise UserError(f"{path} lacks the annotation file or its categories. {_ADVICE}")
    return noted


def _categories(file: AnnotationFile) -> dict[int, str]:
    return {category.id: category.name for category in file.categories}


def _images(file: AnnotationFile) -> dict[Any, str]:
    """File names without folders, by image id."""
    return {number: Path(name).name for number, name in zip(file.images.ids, file.images.file_names)}
