"""What `loradet predict --onnx` does: as `loradet.inference.predictor`, without torch."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loradet.datasets.images.intensity_check import check_intensity
from loradet.datasets.images.reading import read_image
from loradet.errors import UserError
from loradet.evaluation.chosen_thresholds import KEY, choose_thresholds
from loradet.evaluation.operating_point import OperatingPoint
from loradet.inference.batches import detect_in_batches
from loradet.inference.formats import file_names, save_detections, warn_of_earlier
from loradet.inference.image_files import common_folder, find_images
from loradet.inference.onnx_detector import Detections, OnnxDetector
from loradet.inference.outcome import PICTURES, Outcome, annotation, describe, warnings_of
from loradet.inference.video_files import VIDEO_SUFFIXES
from loradet.remote import local_path
from loradet.visualization.painting import LabelledBoxes, Panel, paint_pair, save_png


def predict_onnx(
    file: str,
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    device: str = "auto",
    score_threshold: float | None = None,
    batch_size: int = 1,
    pictures: bool = True,
    save: Sequence[str] = ("coco",),
) -> Outcome:
    """Detect on image files by an ONNX file; write what `loradet.inference.predict` writes.

    Args:
        file: `.onnx` file that `loradet export` wrote, also by URL.
        inputs: see `find_images`.
        output: folder, made where it is missing.
        device: see `OnnxSession`.
        score_threshold: None: the operating point of the file, or 0.3 where it has none.
        batch_size: images at a time; a batch holds images of one size.
        pictures: whether to paint.
        save: `loradet.inference.formats.FORMATS` to write.

    Raises:
        UserError: see `OnnxDetector`; or images would lose their pixels by "auto", see `check_intensity`.
    """
    files = find_images(inputs)
    if videos := [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]:
        raise UserError(f"{videos[0]} is a video, which --onnx does not take: give the file by --exported.")
    file = str(local_path(file))
    detector = OnnxDetector(file, device=device)
    held = detector.metadata.get(KEY)
    point = None if held is None else OperatingPoint.parse(held, file)
    names = detector.classes.names
    thresholds = choose_thresholds(score_threshold, point, names, file)
    check_intensity(files, detector.intensity, "the images", option="exporting anew with")
    output, root = Path(output), common_folder(files)
    warn_of_earlier(output)
    relative = [path.absolute().relative_to(root) for path in files]
    painted = file_names(relative, ".png")
    failures: list[str] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with tqdm(total=len(files), unit="image", disable=None) as progress:
        options = {"batch_size": batch_size, "failures": failures, "progress": progress}
        steps = detect_in_batches(
            files, lambda _, path: detector.read(path), detector, lambda sample: sample.image.shape, **options
        )
        for number, sample, found in steps:
            found = found[thresholds.keep_arrays(found.scores, found.classes)]
            record = {"id": number + 1, "file_name": relative[number].as_posix()}
            images.append({**record, "width": sample.width, "height": sample.height})
            annotations += _rows(found, number + 1, detector.classes.ids, len(annotations))
            if pictures:
                with warnings_of(files[number], progress):
                    image = read_image(str(files[number]), "RGB", detector.intensity)
                boxes = LabelledBoxes(found.boxes, found.classes, found.scores)
                try:
                    panel = paint_pair(Panel(image, files[number].name, boxes), names)
                    save_png(output / PICTURES / painted[number], panel)
                except OSError as error:  # detections are worth more than pictures
                    progress.write(f"warning: {files[number]}: no picture, {error}", file=sys.stderr)
    images.sort(key=lambda image: image["id"])
    source = Path(file).name
    info = describe(detector.classes, thresholds, source=source, image_root=str(root), failed=len(failures))
    content = {"info": info, "images": images, "categories": detector.classes.categories(), "annotations": annotations}
    written = save_detections(content, output, save)
    return Outcome(written, len(images), len(annotations), failures, thresholds.describe(names))


def _rows(found: Detections, image_id: int, category_ids: Sequence[int], before: int) -> list[dict[str, Any]]:
    boxes = found.boxes.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), found.scores.tolist(), found.classes.tolist())
    return [annotation(before + i, image_id, category_ids[k], box, score) for i, (box, score, k) in enumerate(rows, 1)]
