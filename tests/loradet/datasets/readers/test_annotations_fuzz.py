"""Seeded faults in annotation files: every tool reads a file for what it means, or says in a line what is wrong.

The oracle: boxes that are read, fed back as detections, have AP 1; a file that means the same is read as the same.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.broken_annotations import Mutation
from PIL import Image

from loradet.datasets import check, coco_dataset, fix, make_subset, summarize
from loradet.errors import UserError
from loradet.evaluation.coco_metrics import coco_metrics
from loradet.evaluation.ground_truth_check import check_ground_truth

SMALL, LARGE = range(60), range(60, 1260)


class Workbench:
    """A small data set, and all that is tried on a changed copy of its annotations."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.images.mkdir()
        sizes = {"1.png": (64, 48), "2.png": (40, 40), "3.png": (30, 20)}
        for name, size in sizes.items():
            Image.new("L", size).save(self.images / name)
        self.content = {
            "info": {"synthetic": True},
            "images": [
                {"id": 10 + n, "file_name": name, "width": size[0], "height": size[1]}
                for n, (name, size) in enumerate(sizes.items())
            ],
            "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 90, "name": "cow"}],
            "annotations": [
                {"id": n, "image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": crowd}
                for n, (image, label, box, area, crowd) in enumerate(
                    [
                        (10, 5, [4, 4, 20, 10], 200, 0),
                        (10, 2, [30, 10, 10.5, 20], 210, 0),
                        (10, 5, [5, 6, 20, 10], 150.5, 0),
                        (11, 90, [0, 0, 40, 40], 1600, 0),
                        (11, 2, [5, 5, 30, 30], 900, 1),
                        (11, 2, [1, 1, 6.25, 7.5], 46.875, 0),
                    ],
                    start=1,
                )
            ],
        }
        self.plain = self._meaning(self._write("plain.json", json.dumps(self.content).encode()))

    def try_all(self, seed: int) -> str:
        """Try every tool on one file; says what became of it. AssertionError where something is wrong."""
        mutation = Mutation(self.content, seed)
        file = self._write(f"case_{seed}.json", mutation.data())
        told = {
            "check": self._told(file, lambda: check(file, self.images).text()),
            "fix": self._told(file, lambda: self._fix(file)),
            "summary": self._told(file, lambda: summarize(file)),
            "subset": self._told(file, lambda: make_subset(file, self.root / "subset.json", 1)),
            "read": self._told(file, lambda: self._meaning(file)),
        }
        if mutation.same:
            # Without ids an image's boxes are the same, whatever the ids are.
            assert told["read"] == self.plain, mutation.names
            assert told["fix"] == self.plain, mutation.names
        assert isinstance(told["check"], str) or isinstance(told["read"], UserError), mutation.names
        return "refused" if isinstance(told["read"], UserError) else "read"

    def _told(self, file: Path, call):
        try:
            return call()
        except UserError as error:
            assert "\n" not in str(error)
            assert file.name in str(error) or str(self.images) in str(error), error
            return error

    def _fix(self, file: Path) -> list:
        fixed = file.with_name(f"fixed_{file.name}")
        fix(file, self.images, fixed)
        report = check(fixed, self.images)
        assert report.ok, report.text()
        if not json.loads(fixed.read_bytes())["images"] or not json.loads(fixed.read_bytes())["categories"]:
            return []
        return self._meaning(fixed)

    def _meaning(self, file: Path) -> list:
        """What is read of a file: (image, class, box, crowd) of every box. Its boxes fed back are perfect."""
        name = f"fuzz {file}"
        try:
            records = coco_dataset(file, self.images, name=name)
            metadata = MetadataCatalog.get(name)
            self._evaluate(records, metadata)
            names = metadata.thing_classes
            return sorted(
                (Path(r["file_name"]).name, names[a["category_id"]], tuple(a["bbox"]), a["iscrowd"])
                for r in records
                for a in r["annotations"]
            )
        finally:
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)

    def _evaluate(self, records: list[dict], metadata) -> None:
        ids = {place: number for number, place in metadata.thing_dataset_id_to_contiguous_id.items()}
        found = [
            {"image_id": r["image_id"], "category_id": ids[a["category_id"]], "bbox": a["bbox"], "score": 0.9}
            for r in records
            for a in r["annotations"]
            if not a["iscrowd"]
        ]
        predictions = self.root / "coco_instances_results.json"
        predictions.write_text(json.dumps(found))
        metrics = coco_metrics(metadata.json_file, predictions)
        if not found:
            assert np.isnan(metrics["coco/bbox_mAP"])
            with pytest.raises(UserError, match="is a box to find"):
                check_ground_truth(metadata)
            return
        check_ground_truth(metadata)
        classes = {
            metadata.thing_classes[place]
            for place, number in enumerate(ids.values())
            for f in found
            if f["category_id"] == number
        }
        assert metrics["coco/bbox_mAP"] == pytest.approx(1)
        for label in metadata.thing_classes:
            value = metrics[f"coco/bbox_mAP/{label}"]
            assert value == pytest.approx(1) if label in classes else np.isnan(value), label

    def _write(self, name: str, data: bytes) -> Path:
        file = self.root / name
        file.write_bytes(data)
        return file


@pytest.fixture
def bench(tmp_path):
    logging.disable(logging.WARNING)
    yield Workbench(tmp_path)
    logging.disable(logging.NOTSET)


def _try(bench, seeds) -> dict[str, int]:
    counts: dict[str, int] = {}
    for seed in seeds:
        try:
            outcome = bench.try_all(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed} ({Mutation(bench.content, seed).names}): {error!r}") from error
        counts[outcome] = counts.get(outcome, 0) + 1
    return counts


def test_no_fault_is_a_traceback_or_a_wrong_result(bench):
    counts = _try(bench, SMALL)
    assert counts["read"] > 15
    assert counts["refused"] > 10


@pytest.mark.slow
def test_no_fault_of_many_is_a_traceback_or_a_wrong_result(bench):
    counts = _try(bench, LARGE)
    assert sum(counts.values()) == len(LARGE)
    assert min(counts["read"], counts["refused"]) > 300
