"""As which annotation file the images and categories of a run's detections are numbered.

Detections are numbered as the file that the run was evaluated with. That may be a copy of the user's own: of YOLO
labels, of a choice of classes, of an export with a heading. A file with other numbers would give numbers without sense.
"""

import os
from pathlib import Path
from typing import Any

from loradet.datasets.files import read_coco
from loradet.errors import MissingFileError, UserError
from loradet.files import read_json, write_json

FILE = "numbering.json"  # beside the detections
_ADVICE = "Delete it, and name the annotations by hand."

PathLike = str | os.PathLike


def record_numbering(predictions: PathLike, annotations: PathLike) -> None:
    """Note beside a detections file which annotations it belongs to."""
    categories = {str(number): name for number, name in _categories(read_coco(annotations)).items()}
    write_json(
        Path(predictions).with_name(FILE), {"annotations": str(Path(annotations).absolute()), "categories": categories}
    )


def annotations_of(predictions: PathLike) -> Path:
    """The annotation file that was noted beside detections.

    Raises:
        FileNotFoundError: none was, or it is gone.
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


def check_numbering(predictions: PathLike, annotations: PathLike) -> None:
    """Raise ValueError where detections are numbered otherwise than an annotation file, as far as their note tells.

    Without a note, as beside detections of other tools, nothing is compared.
    """
    noted = _noted(predictions)
    if noted is None or Path(noted["annotations"]) == Path(annotations).absolute():
        return
    where = f"{predictions} is numbered as {noted['annotations']}, not as {annotations}"
    content = read_coco(annotations)
    categories = {str(number): name for number, name in _categories(content).items()}
    for number, name in noted["categories"].items():
        if categories.get(number) != name:
            there = repr(categories[number]) if number in categories else "nothing"
            raise UserError(f"{where}: category {number} is {name!r} here and {there} there. Give the former file.")
    if not Path(noted["annotations"]).is_file():
        return
    images = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    for image in read_coco(noted["annotations"])["images"]:
        if images.get(image["id"]) != (name := Path(image["file_name"]).name):
            there = images.get(image["id"], "missing")
            raise UserError(f"{where}: image {image['id']} is {name} here and {there} there. Give the former file.")


def _noted(predictions: PathLike) -> dict[str, Any] | None:
    path = Path(predictions).with_name(FILE)
    if not path.is_file():
        return None
    noted = read_json(path, advice=_ADVICE)
    if not isinstance(noted.get("annotations"), str) or not isinstance(noted.get("categories"), dict):
        raise UserError(f"{path} lacks the annotation file or its categories. {_ADVICE}")
    return noted


def _categories(content: dict[str, Any]) -> dict[int, str]:
    return {category["id"]: category["name"] for category in content["categories"]}
