"""Seeded faults in YOLO descriptions and label files: read for what they mean, or refused by file and line.

The oracle is that of `test_annotations_fuzz.py`: boxes that are read, fed back as detections, have AP 1.
"""

import json
import logging
import random
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from loradet.datasets import yolo_dataset, yolo_to_coco
from loradet.errors import UserError
from loradet.evaluation.coco_metrics import coco_metrics
from loradet.evaluation.ground_truth_check import check_ground_truth

SMALL, LARGE = range(20), range(20, 320)
YAML = "train: images/train\nval: images/val\nnames: [cell, spot, dot]\n"
LABELS = {"a": "0 0.5 0.5 0.25 0.5\n2 0.1 0.1 0.2 0.2\n", "b": "1 0.2 0.45 0.2 0.5\n0 0.75 0.75 0.125 0.125\n", "c": ""}
WORDS = (
    *(
        "x",
        "",
        "-1",
        "3",
        "0.5",
        "1.5",
        "nan",
        "inf",
        "1e400",
        "1e-400",
        "٣",
        "0x1",
        "1_0",
        "0,5",
        "\x00",
        "1e-9",
        "2.0",
    ),
    *("null", "[1]", "'a'", "0 0.5 0.5 0.25 0.5", "0 0 0 1 0 1 1", "\ufeff0", "+0.5", "-0.0001", "1.0005", "0.9999999"),
)
NAMES = (
    *(
        "[on, off, no]",
        "[1, 2.0, null]",
        "{0: yes, 1: no, 2: ~}",
        "[a, a, b]",
        "[[a], b, c]",
        "abc",
        "",
        "[2024-01-01, b, c]",
    ),
    *(
        "{0: a, 2: b}",
        "[a, b]",
        "[a, b, c, d]",
        "{a: b}",
        "['\U0001f600', é, 'x y']",
        "[2024-13-45, b, c]",
        "*x",
        "[a, b, c",
    ),
)
LINES = (
    *(
        "path: 5",
        "path: [a]",
        "path: ../x",
        "path: .",
        "nc: 3",
        "nc: '3'",
        "nc: 4",
        "nc: x",
        "train: 5",
        "train: {a: b}",
    ),
    *("train: [images/train, images/train]", "train: images/a.txt", "train: data.yaml", "train: ''", "train: [null]"),
    *(
        "train: images/train/a.png",
        "synthetic: true",
        "synthetic: [1]",
        "\tx: 1",
        "a: &a [*a]",
        "? [1]\n: 2",
        "train: ~",
    ),
)


class Folder:
    """A small YOLO set that is changed by a seed."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, rng = root, random.Random(seed)
        for name in LABELS:
            image = root / "images" / "train" / f"{name}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (80, 40)).save(image)
        yaml, labels = YAML, dict(LABELS)
        changes = rng.choices(
            ("word", "line", "names", "entry", "label bytes", "yaml bytes", "copy"), k=rng.choice((1, 2))
        )
        tail = {}
        for change in changes:
            name = rng.choice(list(labels))
            rows = labels[name].splitlines()
            if change == "word" and rows:
                row = rng.randrange(len(rows))
                words = rows[row].split(" ")
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                rows[row] = " ".join(words)
                labels[name] = rng.choice(("\n", "\r\n", "\r")).join(rows) + "\n"
            elif change == "line":
                labels[name] += rng.choice((*WORDS, *LABELS.values()))
            elif change == "names":
                yaml = yaml.replace("[cell, spot, dot]", rng.choice(NAMES))
            elif change == "entry":
                yaml = rng.choice((yaml + rng.choice(LINES) + "\n", rng.choice(LINES) + "\n" + yaml))
            elif change == "copy":
                labels[name] += labels[name]
            else:
                tail[change] = rng.choice((b"\xff", b"\x00", "é".encode(), b"\xef\xbb\xbf", b"\xff\xfe"))
        (root / "data.yaml").write_bytes(tail.get("yaml bytes", b"") + yaml.encode())
        for name, text in labels.items():
            path = root / "labels" / "train" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((tail.get("label bytes", b"") if name == "a" else b"") + text.encode())


def _try(folder: Folder) -> str:
    name = f"yolo fuzz {folder.root}"
    try:
        records = yolo_dataset(folder.root, "train", name=name)
        metadata = MetadataCatalog.get(name)
        ids = {place: number for number, place in metadata.thing_dataset_id_to_contiguous_id.items()}
        found = [
            {"image_id": r["image_id"], "category_id": ids[a["category_id"]], "bbox": a["bbox"], "score": 0.9}
            for r in records
            for a in r["annotations"]
        ]
        predictions = folder.root / "found.json"
        predictions.write_text(json.dumps(found))
        if found:
            check_ground_truth(metadata)
            assert coco_metrics(metadata.json_file, predictions)["coco/bbox_mAP"] == pytest.approx(1)
        yolo_to_coco(folder.root, "train", folder.root / "out.json")
        return "read"
    except UserError as error:
        assert str(folder.root) in str(error), error
        assert "Traceback" not in str(error)
        return "refused"
    finally:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def _quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def _try_many(root: Path, seeds) -> set[str]:
    outcomes = set()
    for seed in seeds:
        try:
            outcomes.add(_try(Folder(root / str(seed), seed)))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    return outcomes


@pytest.mark.usefixtures("_quiet")
def test_no_fault_is_a_traceback_or_a_wrong_result(tmp_path):
    assert _try_many(tmp_path, SMALL) == {"read", "refused"}


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
def test_no_fault_of_many_is_a_traceback_or_a_wrong_result(tmp_path):
    assert _try_many(tmp_path, LARGE) == {"read", "refused"}
