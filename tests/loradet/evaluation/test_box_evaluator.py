"""BoxEvaluator gives what Detectron2's COCOEvaluator gives, number by number and byte by byte."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from loradet.datasets import register_coco
from loradet.errors import UserError
from loradet.evaluation import BoxEvaluator

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def annotations(rng, images, classes):
    """Boxes of all sizes, some crowds, and image and category ids with gaps."""
    content = {
        "info": {},
        "images": [{"id": 7 * i + 3, "file_name": f"{i}.png", "height": 400, "width": 600} for i in range(images)],
        "categories": [{"id": 5 * k + 2, "name": f"class {k}"} for k in range(classes)],
        "annotations": [],
    }
    for image in content["images"]:
        for _ in range(rng.integers(0, 9)):
            width, height = np.exp(rng.uniform(1.5, 5, 2))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(5 * rng.integers(classes) + 2),
                    "bbox": [float(rng.uniform(0, 300)), float(rng.uniform(0, 200)), float(width), float(height)],
                    "area": float(width * height),
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return content


def detections(rng, content, classes):
    """Batches of one image: shifted boxes of its ground truth, with some of the wrong class, and others anywhere."""
    for image in content["images"]:
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = [np.array(a["bbox"]) + rng.normal(0, 4, 4) for a in own] + [rng.uniform(1, 150, 4) for _ in range(6)]
        xywh = torch.tensor(np.array(boxes), dtype=torch.float32).abs() + 1
        found = Instances((image["height"], image["width"]))
        found.pred_boxes = Boxes(BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
        found.pred_classes = torch.tensor(
            [(a["category_id"] - 2) // 5 if rng.random() < 0.9 else int(rng.integers(classes)) for a in own]
            + [int(rng.integers(classes)) for _ in range(6)]
        )
        found.scores = torch.tensor(rng.choice(np.linspace(0.05, 1, 12), len(xywh)), dtype=torch.float32)  # with ties
        yield [{"image_id": image["id"]}], [{"instances": found}]


@pytest.fixture
def register(tmp_path):
    names = []

    def registered(content):
        name = f"box_evaluator_{len(names)}"
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        (tmp_path / "0.png").touch()
        register_coco(name, tmp_path / f"{name}.json", tmp_path)
        names.append(name)
        return name

    yield registered
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def evaluate(evaluator, batches):
    evaluator.reset()
    for inputs, outputs in batches:
        evaluator.process(inputs, outputs)
    return evaluator.evaluate()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("limit", [None, 3, 25, 300])
def test_numbers_and_file_are_those_of_coco_evaluator(register, tmp_path, classes, limit):
    rng = np.random.default_rng(classes * 1000 + (limit or 0))
    content = annotations(rng, 30, classes)
    name, batches = register(content), list(detections(rng, content, classes))
    theirs = COCOEvaluator(
        name, ("bbox",), False, str(tmp_path / "theirs"), max_dets_per_image=limit, use_fast_impl=False
    )
    ours = BoxEvaluator(name, str(tmp_path / "ours"), max_dets_per_image=limit, distributed=False)
    expected, got = evaluate(theirs, batches), evaluate(ours, batches)
    assert got.keys() == expected.keys() == {"bbox"}
    assert list(got["bbox"]) == list(expected["bbox"]) and len(got["bbox"]) == 6 + (classes if classes > 1 else 0)
    assert list(got["bbox"].values()) == list(expected["bbox"].values())
    assert 1 < got["bbox"]["AP"] < 99
    files = [tmp_path / side / "coco_instances_results.json" for side in ("theirs", "ours")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_classes_without_ground_truth_and_images_without_detections(register):
    rng = np.random.default_rng(0)
    content = annotations(rng, 12, 3)
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 7]
    name, batches = register(content), list(detections(rng, content, 3))[:5]
    results = [
        evaluate(COCOEvaluator(name, distributed=False, use_fast_impl=False), batches),
        evaluate(BoxEvaluator(name, distributed=False), batches),
    ]
    assert math.isnan(results[1]["bbox"]["AP-class 1"]) and results[1]["bbox"]["AP"] > 1
    assert str(results[0]["bbox"]) == str(results[1]["bbox"])


def test_no_detections_is_nan_and_nothing_processed_is_nothing(register):
    content = annotations(np.random.default_rng(0), 3, 2)
    evaluator = BoxEvaluator(register(content), distributed=False)
    empty = Instances((400, 600), pred_boxes=Boxes(torch.zeros(0, 4)))
    empty.scores, empty.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    results = evaluate(evaluator, [([{"image_id": 3}], [{"instances": empty}])])
    assert list(results["bbox"]) == METRICS and all(math.isnan(value) for value in results["bbox"].values())
    assert evaluate(evaluator, []) == {}


def test_records_without_a_coco_file_are_converted(tmp_path):
    records = [
        {"file_name": "a.png", "image_id": 1, "height": 100, "width": 100, "annotations": [
            {"bbox": [10, 10, 50, 60], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}]},
    ]  # fmt: skip
    DatasetCatalog.register("no_coco_file", lambda: records)
    MetadataCatalog.get("no_coco_file").thing_classes = ["ship"]
    try:
        with pytest.raises(UserError, match="output_dir"):
            BoxEvaluator("no_coco_file")
        found = Instances((100, 100), pred_boxes=Boxes(torch.tensor([[10.0, 10, 50, 60]])))
        found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        evaluator = BoxEvaluator("no_coco_file", str(tmp_path), distributed=False)
        assert evaluate(evaluator, [([{"image_id": 1}], [{"instances": found}])])["bbox"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("no_coco_file")
        MetadataCatalog.remove("no_coco_file")


@pytest.mark.parametrize(
    ("image_id", "label", "message"), [(999, 0, r"image_id \[999\].* not in the ground truth"), (3, 2, "num_classes")]
)
def test_detections_of_other_data_are_refused(register, image_id, label, message):
    evaluator = BoxEvaluator(register(annotations(np.random.default_rng(0), 3, 2)), distributed=False)
    found = Instances((400, 600), pred_boxes=Boxes(torch.ones(1, 4)))
    found.scores, found.pred_classes = torch.ones(1), torch.tensor([label])
    with pytest.raises(UserError, match=message):
        evaluate(evaluator, [([{"image_id": image_id}], [{"instances": found}])])


def test_a_limit_is_a_whole_number(register):
    with pytest.raises(UserError, match="max_dets_per_image is 0"):
        BoxEvaluator(register(annotations(np.random.default_rng(0), 3, 2)), max_dets_per_image=0)
