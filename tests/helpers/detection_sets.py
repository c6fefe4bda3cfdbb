"""Random small data sets with detections, in which every kind of match and error occurs."""

import json
from pathlib import Path

import numpy as np

from loradet.evaluation.detections.records import DetectionRecords, ImageRecord, read_records


def random_set(seed: int, *, images: int = 4, classes: int = 3, crowds: bool = True) -> tuple[dict, list[dict]]:
    """Ground truth and detections; boxes lie on a coarse lattice, so that equal overlaps and scores occur."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [
            {"id": 10 * number, "width": 64, "height": 64, "file_name": f"{number}.png"} for number in range(images)
        ],
        "categories": [{"id": 2 + 3 * number, "name": f"class{number}"} for number in range(classes)],
        "annotations": [],
    }
    detections = []
    for image in truth["images"]:
        for _ in range(rng.integers(0, 5)):
            box = _box(rng)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": 2 + 3 * int(rng.integers(classes)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowds and rng.random() < 0.2),
                }
            )
        own = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        for _ in range(rng.integers(0, 9)):
            near = own[rng.integers(len(own))] if own and rng.random() < 0.75 else None
            box = _box(rng) if near is None else [side + int(rng.integers(-1, 2)) * 4 for side in near["bbox"]]
            category = near["category_id"] if near and rng.random() < 0.7 else 2 + 3 * int(rng.integers(classes))
            box = [box[0], box[1], max(box[2], 4), max(box[3], 4)]
            score = float(rng.integers(1, 20)) / 20
            detections.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
    return truth, detections


def _box(rng: np.random.Generator) -> list[int]:
    return [int(4 * value) for value in (*rng.integers(0, 10, 2), *rng.integers(2, 7, 2))]


def write(folder: Path, truth: dict, detections: list[dict]) -> tuple[Path, Path]:
    """Both as files."""
    paths = folder / "truth.json", folder / "detections.json"
    for path, content in zip(paths, (truth, detections)):
        path.write_text(json.dumps(content))
    return paths


def as_records(folder: Path, truth: dict, detections: list[dict]) -> DetectionRecords:
    """Both as a user's files are read."""
    return read_records(*write(folder, truth, detections))


def one_image(truth: list[tuple], found: list[tuple], classes: int = 2) -> tuple[dict, list[dict]]:
    """An image with (class, box XYWH[, crowd]) to find and (class, box XYWH, score) found."""
    content = {
        "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.png"}],
        "categories": [{"id": number, "name": f"class{number}"} for number in range(classes)],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": entry[0], "bbox": entry[1], "iscrowd": int(len(entry) > 2)}
            for number, entry in enumerate(truth, start=1)
        ],
    }
    detections = [{"image_id": 1, "category_id": c, "bbox": b, "score": s} for c, b, s in found]
    return content, detections


def large_set(images: int = 10_000, detections: int = 100, classes: int = 80) -> DetectionRecords:
    """About seven boxes an image, of which the detections are copies that are moved a little."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(images):
        boxes = rng.poisson(7) + 1
        truth = np.concatenate([rng.uniform(0, 400, (boxes, 2)), np.exp(rng.normal(4, 1, (boxes, 2)))], axis=1)
        kinds = rng.choice(rng.integers(0, classes, 3), boxes)
        source = rng.integers(0, boxes, detections)
        moved = truth[source] + rng.normal(0, 0.1, (detections, 4)) * truth[source][:, [2, 3, 2, 3]]
        moved[:, 2:] = np.maximum(moved[:, 2:], 1)
        found = np.where(rng.random(detections) < 0.6, kinds[source], rng.integers(0, classes, detections))
        scores = np.sort(rng.beta(0.5, 2, detections))[::-1]
        records.append(ImageRecord(number, truth, kinds, rng.random(boxes) < 0.01, moved, found, scores))
    return DetectionRecords(tuple(records), tuple(f"class{number}" for number in range(classes)))


def as_files(folder: Path, records: DetectionRecords) -> tuple[Path, Path]:
    """Ground truth and detections of records, class numbers as category ids."""
    truth = {
        "images": [
            {"id": image.image_id, "width": 640, "height": 640, "file_name": f"{image.image_id}.jpg"}
            for image in records.images
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(records.class_names)],
        "annotations": [],
    }
    detections = []
    for image in records.images:
        boxes = zip(image.truth_xywh.tolist(), image.truth_classes.tolist(), image.truth_crowd.tolist())
        for box, kind, crowd in boxes:
            entry = {"id": len(truth["annotations"]) + 1, "image_id": image.image_id, "category_id": kind, "bbox": box}
            truth["annotations"].append({**entry, "area": box[2] * box[3], "iscrowd": int(crowd)})
        found = zip(image.found_xywh.tolist(), image.found_classes.tolist(), image.scores.tolist())
        detections += [
            {"image_id": image.image_id, "category_id": kind, "bbox": box, "score": score} for box, kind, score in found
        ]
    return write(folder, truth, detections)
