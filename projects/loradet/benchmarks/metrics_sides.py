"""The two sides of the benchmark of metrics, and files for them; without torch, since memory is measured too."""

import contextlib
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loradet.evaluation.bootstrap import summarize_coco
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, fit_on_records
from loradet.evaluation.coco_accumulate import AccumulatedMatches
from loradet.evaluation.coco_metrics import PREFIX, coco_metrics, match_detections, mean_known
from loradet.evaluation.detections.records import DetectionRecords, read_records
from loradet.evaluation.process_memory import status_mb

Paths = tuple[Path, Path]

_SIDE, _BOXES = 640, 7


def write_files(folder: Path, images: int, detections: int, classes: int) -> Paths:
    """Annotations of seven boxes an image and `detections` an image: boxes that are moved a little, and wrong ones."""
    rng = np.random.default_rng(0)
    count = images * _BOXES
    boxes = np.concatenate([rng.uniform(0, 400, (count, 2)), np.exp(rng.normal(4, 1, (count, 2)))], axis=1)
    # An image has few classes.
    kinds = rng.integers(0, classes, (images, 3))[np.arange(count) // _BOXES, rng.integers(0, 3, count)]
    crowd = rng.random(count) < 0.01
    source = np.repeat(np.arange(images), detections) * _BOXES + rng.integers(0, _BOXES, images * detections)
    found = boxes[source] + rng.normal(0, 0.1, (len(source), 4)) * boxes[source][:, [2, 3, 2, 3]]
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    guesses = np.where(rng.random(len(source)) < 0.6, kinds[source], rng.integers(0, classes, len(source)))
    scores = rng.beta(0.5, 2, len(source))

    paths = folder / "annotations.json", folder / "coco_instances_results.json"
    columns = zip(boxes.tolist(), kinds.tolist(), crowd.tolist())
    content = {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": _SIDE, "height": _SIDE} for n in range(1, images + 1)],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, classes + 1)],
        "annotations": [
            {
                "id": number,
                "image_id": 1 + (number - 1) // _BOXES,
                "category_id": kind + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(is_crowd),
            }
            for number, (box, kind, is_crowd) in enumerate(columns, start=1)
        ],
    }
    paths[0].write_text(json.dumps(content))
    columns = zip((1 + source // _BOXES).tolist(), guesses.tolist(), found.tolist(), scores.tolist())
    entries = [{"image_id": i, "category_id": k + 1, "bbox": box, "score": score} for i, k, box, score in columns]
    paths[1].write_text(json.dumps(entries))
    return paths


def our_metrics(paths: Paths) -> dict[str, float]:
    """Both files to all metrics."""
    os.utime(paths[0])  # or the annotations would not be read again
    return coco_metrics(*paths)


def their_metrics(paths: Paths) -> dict[str, float]:
    """The same by pycocotools, which reads the files itself; names as ours."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(paths[0])
        evaluation = COCOeval(truth, truth.loadRes(str(paths[1])), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"]
    found = {"mAP": mean_known(precision[..., 0])}
    found |= {name: mean_known(precision[place, ..., 0]) for name, place in (("mAP_50", 0), ("mAP_75", 5))}
    sizes = list(enumerate("sml", start=1))
    found |= {f"mAP_{size}": mean_known(precision[..., area]) for area, size in sizes}
    found |= {f"AR@{limit}": mean_known(recall[..., 0, m]) for m, limit in enumerate(evaluation.params.maxDets)}
    found |= {f"AR_{size}@100": mean_known(recall[..., area, -1]) for area, size in sizes}
    names = [truth.cats[number]["name"] for number in evaluation.params.catIds]
    found |= {f"mAP/{name}": mean_known(precision[:, :, k, 0]) for k, name in enumerate(names)}
    found |= {f"AR@100/{name}": mean_known(recall[:, k, 0, -1]) for k, name in enumerate(names)}
    return {PREFIX + name: value for name, value in found.items()}


def bootstrap_matches(paths: Paths) -> AccumulatedMatches:
    """Both files to matches that can be counted with any weights."""
    os.utime(paths[0])
    return AccumulatedMatches.from_evaluation(match_detections(*paths))


def resample(matches: AccumulatedMatches) -> dict[str, float]:
    """Metrics of one drawing of the images."""
    images = len(matches.image_ids)
    weights = np.bincount(np.random.default_rng(1).integers(images, size=images), minlength=images)
    return summarize_coco(*matches.accumulate(weights), matches, {n: f"class {n}" for n in matches.category_ids})


def calibrate(records: DetectionRecords) -> dict[str, Any]:
    """A temperature's fit and the whole report, without files."""
    records, settings = replace(records), CalibrationSettings()  # a copy that has no matches yet
    return calibration_report(records, settings, temperature=fit_on_records(records, settings)).to_dict()


def records_of(paths: Paths) -> DetectionRecords:
    """Both files, image by image."""
    return read_records(*paths)


def measure_peak(side: str, paths: Paths) -> float:
    """What this process holds at most, in MiB, once a side, by its name here, has run."""
    globals()[side](paths)
    return status_mb("VmHWM")


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of what is not equal to the last digit, or on one side only."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [name for name in names if not _equal(ours.get(name), theirs.get(name))]


def _equal(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return one == other or both_nan
