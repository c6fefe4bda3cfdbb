"""Detections of several experiments on the same images, side by side."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image
from loradet.errors import MissingFileError, UserError
from loradet.evaluation.detections.records import read_records
from loradet.visualization.export.folder import GROUND_TRUTH, PREDICTIONS, Export, read_export
from loradet.visualization.grid import SHEET_ROWS, Cell, grid, wrap
from loradet.visualization.loaded_split import origin, spread
from loradet.visualization.painting import LabelledBoxes, legend, paint_in_frame, save_png

COLUMNS = 4  # of a picture of one image
TILE = 320  # side of a picture on a sheet, pixels
SHEET = "comparison.png"
TRUTH = "ground truth"


def compare_exports(
    folders: Mapping[str, str | os.PathLike],
    output: str | os.PathLike,
    *,
    num_images: int | None = None,
    score_threshold: float = 0.3,
    sheet: bool = False,
    image_root: str | os.PathLike | None = None,
) -> list[Path]:
    """Paint ground truth and each experiment's detections of the same images, from exports alone.

    Args:
        folders: the export folder of each experiment, by the name to show.
        output: a folder, which gets a PNG for each image or `comparison.png`; or a PNG file for a sheet.
        num_images: images spread evenly over all; None: all, on a sheet 24.
        score_threshold: detections under it are left out.
        sheet: one contact sheet, a row an image, instead of a PNG for each.
        image_root: folder of the images; None: where they lay when they were exported.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: no such folder, or an image is not there.
        ValueError: a folder is no finished export, or the exports differ in split, classes, images or annotations;
            it says in which.
    """
    as_file = Path(output).suffix.lower() == ".png"
    if as_file and not sheet:
        raise UserError(f"{output} can hold a contact sheet only: add --contact-sheet, or name a folder.")
    if num_images is not None and num_images < 1:
        raise UserError(f"{num_images} images asked for: nothing to paint.")
    if TRUTH in folders:
        raise UserError(f"{TRUTH!r} is the name of the first picture: give the experiment another one.")
    exports = {name: read_export(folder) for name, folder in folders.items()}
    check_comparable(exports)
    first = next(iter(exports.values()))
    painter = _Painter(exports, Path(image_root or first.manifest["image_root"]), score_threshold)
    default = SHEET_ROWS if sheet else len(first.image_ids)
    entries = spread(first.manifest["images"], default if num_images is None else num_images)
    heading = f"{first.manifest['split']}{origin(first.synthetic)}, detections with score >= {score_threshold:g}"
    if not sheet:
        return [
            save_png(Path(output) / Path(entry["picture"]).name, painter.picture(entry, heading))
            for entry in tqdm(entries, desc="compare", unit="image")
        ]
    if len(entries) < len(first.image_ids):
        heading += f", {len(entries)} of {len(first.image_ids)} images"
    return [save_png(Path(output) if as_file else Path(output) / SHEET, painter.sheet(entries, heading))]


class _Painter:
    """Paints entries of the manifests' image list."""

    def __init__(self, exports: Mapping[str, Export], image_root: Path, score_threshold: float):
        records = {
            name: read_records(export.folder / GROUND_TRUTH, export.folder / PREDICTIONS)
            for name, export in exports.items()
        }
        self.names = next(iter(records.values())).class_names
        self.by_id = {
            name: {image.image_id: image for image in of_export.images} for name, of_export in records.items()
        }
        self.image_root = image_root
        # An export of before has no rule. They may differ, where one model was trained with another.
        self.intensity = Intensity.parse(next(iter(exports.values())).manifest.get("intensity", "auto"))
        self.score_threshold = score_threshold

    def picture(self, entry: Mapping[str, Any], heading: str) -> np.ndarray:
        """One image, four pictures a row, enlarged where it is small."""
        image, boxes = self._image(entry), self._boxes(entry)
        width = int(np.clip(max(image.shape[:2]), 400, 800))
        frame = round(width * min(1.0, image.shape[0] / image.shape[1])), width
        painted = grid(wrap(self._cells(entry, image, boxes, frame), COLUMNS), heading=heading)
        return self._with_legend(painted, boxes.values())

    def sheet(self, entries: Sequence[Mapping[str, Any]], heading: str) -> np.ndarray:
        """A row for each image."""
        boxes = [self._boxes(entry) for entry in entries]
        rows = [
            self._cells(entry, self._image(entry), of_image, (TILE, TILE))
            for entry, of_image in zip(tqdm(entries, desc="compare", unit="image"), boxes)
        ]
        return self._with_legend(grid(rows, heading=heading), [b for of_image in boxes for b in of_image.values()])

    def _image(self, entry: Mapping[str, Any]) -> np.ndarray:
        path = self.image_root / entry["file_name"]
        if not path.is_file():
            raise MissingFileError(f"No image at {path}. Say where the exported images lie: --image-root DIR")
        return read_image(str(path), "RGB", self.intensity)

    def _boxes(self, entry: Mapping[str, Any]) -> dict[str, LabelledBoxes]:
        """What to paint under which title, ground truth first."""
        records = {name: images[entry["id"]] for name, images in self.by_id.items()}
        first = next(iter(records.values()))
        boxes = {TRUTH: LabelledBoxes(_xyxy(first.truth_xywh), first.truth_classes)}
        for name, record in records.items():
            keep = record.scores >= self.score_threshold
            boxes[name] = LabelledBoxes(_xyxy(record.found_xywh[keep]), record.found_classes[keep], record.scores[keep])
        return boxes

    def _cells(
        self,
        entry: Mapping[str, Any],
        image: np.ndarray,
        boxes: Mapping[str, LabelledBoxes],
        frame: tuple[int, int],
    ) -> list[Cell]:
        titles = [(Path(entry["file_name"]).name, f": {TRUTH}"), *((name, "") for name in list(boxes)[1:])]
        return [
            Cell(title, paint_in_frame(image, labelled, self.names, frame), kind)
            for (title, kind), labelled in zip(titles, boxes.values())
        ]

    def _with_legend(self, painted: np.ndarray, boxes: Iterable[LabelledBoxes]) -> np.ndarray:
        present = sorted({index for labelled in boxes for index in labelled.classes.tolist()})
        return np.vstack([painted, legend(present, self.names, painted.shape[1])])


def check_comparable(exports: Mapping[str, Export]) -> None:
    """Raise ValueError, which says what differs, where exports are not of the same images and annotations."""
    if len(exports) < 2:
        raise UserError(f"A comparison needs two exports or more, got {len(exports)}.")
    (first_name, first), *others = exports.items()
    for name, other in others:
        if differences := _differences(first, other):
            raise UserError(f"{name} ({other.folder}) cannot stand beside {first_name}: {'; '.join(differences)}.")


def _differences(first: Export, other: Export) -> list[str]:
    found = []
    for key in ("split", "classes"):
        if first.manifest[key] != other.manifest[key]:
            found.append(f"{key} {other.manifest[key]} instead of {first.manifest[key]}")
    if first.synthetic != other.synthetic:
        kinds = ["synthetic" if export.synthetic else "real" for export in (other, first)]
        found.append(f"{kinds[0]} images instead of {kinds[1]} ones")
    if set(first.image_ids) != set(other.image_ids):
        absent, more = (_examples(a, b) for a, b in ((first, other), (other, first)))
        found.append(f"it lacks {absent} and has {more} besides")
    elif first.manifest["data_fingerprint"] != other.manifest["data_fingerprint"]:
        found.append("the images or annotations behind it are others")
    return found


def _examples(some: Export, others: Export) -> str:
    known = set(others.image_ids)
    ids = [number for number in some.image_ids if number not in known]
    return f"{len(ids)} images" + (f" (such as id {', '.join(map(str, ids[:3]))})" if ids else "")


def _xyxy(xywh: np.ndarray) -> np.ndarray:
    boxes = xywh.copy()
    boxes[:, 2:] += boxes[:, :2]
    return boxes
