"""COCOEvaluator against the metrics and files that Detectron2 gives for the same predictions."""

import builtins
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

pytestmark = pytest.mark.golden

NAME = "golden_coco_evaluator"


@pytest.fixture
def golden(golden_d2: Path):
    folder = golden_d2 / "coco_evaluator"
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        arrays = dict(file)
    image_ids = json.loads(str(arrays["meta"]))["image_ids"]
    gt = json.loads((folder / "gt.json").read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in gt["images"]}
    predictions = []
    for i, image_id in enumerate(image_ids):
        instances = Instances(sizes[image_id])
        instances.pred_boxes = Boxes(torch.from_numpy(arrays[f"pred/{i}/boxes"]))
        instances.scores = torch.from_numpy(arrays[f"pred/{i}/scores"])
        instances.pred_classes = torch.from_numpy(arrays[f"pred/{i}/classes"])
        predictions.append(instances)
    id_map = {int(k): v for k, v in expected["thing_dataset_id_to_contiguous_id"].items()}
    MetadataCatalog.get(NAME).set(
        json_file=str(folder / "gt.json"),
        thing_classes=expected["thing_classes"],
        thing_dataset_id_to_contiguous_id=id_map,
    )
    yield SimpleNamespace(folder=folder, expected=expected, image_ids=image_ids, predictions=predictions, sizes=sizes)
    MetadataCatalog.remove(NAME)


def run(golden, output_dir: Path | None, items: slice = slice(None), empty=False, img_ids=None, **kwargs) -> dict:
    evaluator = COCOEvaluator(
        NAME, distributed=False, use_fast_impl=False, output_dir=output_dir and str(output_dir), **kwargs
    )
    evaluator.reset()
    for image_id, instances in list(zip(golden.image_ids, golden.predictions))[items]:
        evaluator.process([{"image_id": image_id}], [{"instances": instances[:0] if empty else instances}])
    return evaluator.evaluate(img_ids=img_ids)


def check(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for task, metrics in expected.items():
        assert found[task].keys() == metrics.keys()
        for name, value in metrics.items():
            value = float("nan") if value is None else value
            assert found[task][name] == pytest.approx(value, rel=1e-9, nan_ok=True), name


def test_every_recorded_run(golden, tmp_path):
    runs = {
        "default": {},
        "max_dets_per_image_3": {"max_dets_per_image": 3},
        "max_dets_per_image_15": {"max_dets_per_image": 15},
        "img_ids_subset": {"img_ids": golden.expected["img_ids_subset"]},
        "half_of_the_images_processed": {"items": slice(None, None, 2)},
        "no_boxes_at_all": {"empty": True},
        "nothing_processed": {"items": slice(0, 0)},
        "tasks_bbox": {"tasks": ("bbox",)},
    }
    assert set(runs) == set(golden.expected["results"])
    for name, kwargs in runs.items():
        check(run(golden, tmp_path / name, **kwargs), golden.expected["results"][name])


def test_key_order(golden):
    for task, names in golden.expected["key_order"]["default"]:
        assert list(run(golden, None)[task]) == names


def test_files(golden, tmp_path):
    run(golden, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(golden.expected["files_written"])
    name = "coco_instances_results.json"
    found = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))
    expected = json.loads((golden.folder / name).read_text(encoding="utf-8"))
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.keys() == other.keys()
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["bbox"] == pytest.approx(other["bbox"], rel=1e-5)
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)


def test_errors(golden):
    (name,) = golden.expected["errors"]
    assert name == "predicted class outside the dataset"
    golden.predictions[0].pred_classes = golden.predictions[0].pred_classes + len(golden.expected["thing_classes"])
    with pytest.raises(getattr(builtins, golden.expected["errors"][name][0]), match="class"):
        run(golden, None)
