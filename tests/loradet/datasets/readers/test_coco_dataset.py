import json
import logging
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from loradet.datasets import coco_dataset, register_coco
from loradet.datasets.provenance import is_synthetic
from loradet.errors import UserError

_numbers = count()


@pytest.fixture
def name():
    return f"coco_dataset_test_{next(_numbers)}"


def _evaluate(name: str, wrong: bool = False, only: str | None = None) -> dict:
    """Evaluate predictions equal to the ground truth (or of the next class, or of one class alone)."""
    metadata = MetadataCatalog.get(name)
    evaluator = COCOEvaluator(name, tasks=("bbox",), distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        boxes = [ann for ann in record["annotations"] if not ann["iscrowd"]]
        if only is not None:
            boxes = [ann for ann in boxes if metadata.thing_classes[ann["category_id"]] == only]
        instances = Instances((record["height"], record["width"]))
        xyxy = [BoxMode.convert(ann["bbox"], ann["bbox_mode"], BoxMode.XYXY_ABS) for ann in boxes]
        instances.pred_boxes = Boxes(torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4))
        instances.scores = torch.full((len(boxes),), 0.9)
        shift, classes = int(wrong), len(metadata.thing_classes)
        labels = [(ann["category_id"] + shift) % classes for ann in boxes]
        instances.pred_classes = torch.tensor(labels, dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_ids_follow_ascending_category_ids(coco_folder, name):
    records = coco_dataset(coco_folder.json, coco_folder.images, name=name)
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["cat", "dog", "cow"]
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1, 90: 2}
    assert metadata.evaluator_type == "coco"
    assert [record["image_id"] for record in records] == [10, 7, 31]
    assert [[ann["category_id"] for ann in record["annotations"]] for record in records] == [
        [1, 0],
        [2, 0],
        [],
    ]
    assert [ann["iscrowd"] for ann in records[1]["annotations"]] == [0, 1]
    assert records[0]["annotations"][1]["bbox"] == [30, 10, 10.5, 20]
    assert records[0]["annotations"][1]["bbox_mode"] == BoxMode.XYWH_ABS
    assert records[0]["file_name"] == str(coco_folder.images / "a.jpg")
    assert DatasetCatalog.get(name) == records


def test_a_file_that_suits_is_evaluated_itself(coco_folder, name):
    coco_dataset(coco_folder.json, coco_folder.images, name=name)
    assert MetadataCatalog.get(name).json_file == str(coco_folder.json)


@pytest.mark.parametrize(
    "classes",
    [
        None,
        ["cat", "dog", "cow"],
        ["cow", "cat", "dog"],
        ["cow", "dog"],
        ["dog"],
        ["cat", "horse"],
        ["horse", "cow", "cat"],
        ["cat", "dog", "cow", "horse"],
        ["horse", "cow", "dog", "cat"],
    ],
    ids=str,
)
def test_perfect_predictions_evaluate_to_100_whatever_the_classes(coco_folder, name, classes):
    before = coco_folder.json.read_bytes()
    coco_dataset(coco_folder.json, coco_folder.images, classes, name=name)
    metadata = MetadataCatalog.get(name)
    classes = classes or ["cat", "dog", "cow"]
    assert metadata.thing_classes == classes
    # Detectron2 takes the categories of this file, by ascending id, for the classes in their order.
    categories = json.loads(Path(metadata.json_file).read_text())["categories"]
    categories.sort(key=lambda category: category["id"])
    assert [category["name"] for category in categories] == classes
    ids = {category["id"]: place for place, category in enumerate(categories)}
    assert metadata.thing_dataset_id_to_contiguous_id == ids
    result = _evaluate(name)
    assert result["AP"] == pytest.approx(100)
    for label in classes if len(classes) > 1 else ():
        assert np.isnan(result[f"AP-{label}"]) if label == "horse" else result[f"AP-{label}"] == pytest.approx(100)
    if len(classes) > 1:
        assert _evaluate(name, wrong=True)["AP"] == pytest.approx(0)
    assert coco_folder.json.read_bytes() == before
    assert sorted(path.name for path in coco_folder.root.iterdir()) == ["images", "instances.json"]


def test_classes_in_another_order_of_ids_from_one_on(coco_folder, name):
    for category, number in zip(coco_folder.content["categories"], (1, 2, 3)):
        category["id"] = number
    for number, ann in enumerate(coco_folder.content["annotations"]):
        ann["category_id"] = number % 3 + 1
    coco_folder.write()
    coco_dataset(coco_folder.json, coco_folder.images, ["cow", "cat", "dog"], name=name)
    categories = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())["categories"]
    assert [(category["id"], category["name"]) for category in categories] == [
        (1, "cow"),
        (2, "cat"),
        (3, "dog"),
    ]
    assert _evaluate(name)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("classes", [["cow", "cat", "dog"], ["dog", "cat"], ["horse", "cow", "dog"]], ids=str)
def test_metrics_of_a_class_carry_its_name_in_any_order(coco_folder, name, classes):
    coco_dataset(coco_folder.json, coco_folder.images, classes, name=name)
    result = _evaluate(name, only="dog")
    expected = {"dog": 100, "horse": float("nan")}
    for label in classes:
        assert result[f"AP-{label}"] == pytest.approx(expected.get(label, 0), nan_ok=True)


def test_a_class_without_annotations_may_be_left_out(coco_folder, name):
    coco_folder.content["annotations"] = [ann for ann in coco_folder.content["annotations"] if ann["category_id"] != 2]
    coco_folder.write()
    coco_dataset(coco_folder.json, coco_folder.images, ["dog", "cow"], name=name)
    assert _evaluate(name)["AP-cow"] == pytest.approx(100)


def test_dropped_ground_truth_is_not_missed_in_evaluation(coco_folder, name):
    box = coco_folder.box
    coco_folder.content["annotations"] += [
        box(5, 10, 5, [3, 3, 0, 8]),
        box(6, 10, 5, [3, 3, 5, -8]),
        box(7, 999, 5, [3, 3, 5, 8]),
        box(8, 10, 77, [3, 3, 5, 8]),
    ]
    coco_folder.write()
    records = coco_dataset(coco_folder.json, coco_folder.images, name=name)
    assert [len(record["annotations"]) for record in records] == [2, 2, 0]
    assert _evaluate(name)["AP"] == pytest.approx(100)


def test_annotations_without_area_crowd_flag_or_with_id_zero(coco_folder, name):
    for number, ann in enumerate(coco_folder.content["annotations"]):
        ann["id"] = number
        del ann["area"]
        if not ann["iscrowd"]:
            del ann["iscrowd"]
    coco_folder.write()
    coco_dataset(coco_folder.json, coco_folder.images, name=name)
    assert _evaluate(name)["AP"] == pytest.approx(100)
    written = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
    assert written["annotations"][1]["area"] == pytest.approx(210)


def test_a_split_with_fewer_categories_keeps_the_ids_of_the_training_file(coco_folder, name):
    train = coco_folder.write("train.json")
    coco_folder.content["categories"] = [{"id": 90, "name": "cow"}]
    val = coco_folder.write("val.json")
    records = coco_dataset(val, coco_folder.images, name=name, classes_from=train)
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog", "cow"]
    assert [ann["category_id"] for record in records for ann in record["annotations"]] == [2]
    assert _evaluate(name)["AP"] == pytest.approx(100)


def test_what_is_left_out_is_logged_with_counts(coco_folder, name, caplog):
    coco_folder.content["annotations"].append(coco_folder.box(5, 10, 2, [3, 3, 0, 8]))
    coco_folder.write()
    with caplog.at_level(logging.INFO, "loradet"):
        coco_dataset(coco_folder.json, coco_folder.images, ["cat", "horse"], name=name)
    assert "left out 2 annotations of classes" in caplog.text
    assert "left out 1 annotations without a box" in caplog.text
    assert "no category ['horse']" in caplog.text


def test_a_split_without_a_box_is_a_warning(coco_folder, name, caplog):
    coco_folder.content["annotations"].clear()
    coco_folder.write()
    coco_dataset(coco_folder.json, coco_folder.images, name=name)
    assert [record.getMessage() for record in caplog.records] == [f"{coco_folder.json}: 3 images, 0 boxes."]


def test_filter_empty_keeps_images_with_boxes_to_train_on(coco_folder, name):
    records = coco_dataset(coco_folder.json, coco_folder.images, ["cat"], name=name, filter_empty=True)
    assert [record["image_id"] for record in records] == [10]  # image 7 has nothing but a crowd of cats


def test_small_images_and_empty_ones_are_left_out_with_counts_by_reason(coco_folder, name, caplog):
    coco_folder.content["images"][0]["height"] = 15
    coco_folder.write()
    with caplog.at_level(logging.INFO, "loradet"):
        records = coco_dataset(coco_folder.json, coco_folder.images, name=name, filter_empty=True, min_size=16)
    assert [record["image_id"] for record in records] == [7]
    assert "left out 1 images under 16 pixels" in caplog.text
    assert "left out 1 images without boxes" in caplog.text
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == [7, 31]  # evaluation leaves out small ones
    assert _evaluate(name)["AP"] == pytest.approx(100)


@pytest.mark.parametrize("classes", [None, ["dog", "cat"]])
def test_synthetic_images_stay_marked_in_the_copy_for_evaluation(coco_folder, name, classes):
    assert not is_synthetic(coco_folder.json)
    coco_folder.content["info"] = {"synthetic": True}
    coco_folder.write()
    coco_dataset(coco_folder.json, coco_folder.images, classes, name=name)
    metadata = MetadataCatalog.get(name)
    assert metadata.synthetic
    assert (metadata.json_file == str(coco_folder.json)) == (classes is None)
    assert is_synthetic(metadata.json_file)


def test_without_a_name_one_is_made_for_each_choice_of_classes(coco_folder):
    before = set(DatasetCatalog.list())
    for _ in range(2):
        coco_dataset(coco_folder.json, coco_folder.images)
        coco_dataset(coco_folder.json, coco_folder.images, ["dog"])
    made = set(DatasetCatalog.list()) - before
    assert sorted(len(MetadataCatalog.get(one).thing_classes) for one in made) == [1, 3]


def test_registering_the_same_twice_is_fine_and_other_data_is_not(coco_folder, name):
    register_coco(name, coco_folder.json, coco_folder.images)
    register_coco(name, str(coco_folder.json), str(coco_folder.images), ["cat", "dog", "cow"])
    with pytest.raises(ValueError, match=name):
        register_coco(name, coco_folder.json, coco_folder.images, ["cat"])
    coco_folder.content["annotations"].pop()
    coco_folder.write()
    with pytest.raises(ValueError, match=name):
        coco_dataset(coco_folder.json, coco_folder.images, name=name)
    DatasetCatalog.remove(name)
    assert len(coco_dataset(coco_folder.json, coco_folder.images, ["dog"], name=name)) == 3
    assert MetadataCatalog.get(name).thing_classes == ["dog"]


def test_a_name_that_someone_else_registered_is_refused(coco_folder, name):
    DatasetCatalog.register(name, list)
    with pytest.raises(ValueError, match=name):
        register_coco(name, coco_folder.json, coco_folder.images)


def test_variables_in_paths(coco_folder, name, monkeypatch):
    monkeypatch.setenv("MY_DATA", str(coco_folder.root))
    monkeypatch.setenv("HOME", str(coco_folder.root))
    assert len(coco_dataset("$MY_DATA/instances.json", "~/images", name=name)) == 3
    monkeypatch.delenv("MY_DATA")
    with pytest.raises(FileNotFoundError, match="MY_DATA"):
        coco_dataset("$MY_DATA/instances.json", coco_folder.images)


def test_missing_files_are_named(coco_folder):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        coco_dataset(coco_folder.root / "nothing.json", coco_folder.images)
    with pytest.raises(FileNotFoundError, match="no_folder"):
        coco_dataset(coco_folder.json, coco_folder.root / "no_folder")
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        coco_dataset(coco_folder.json, coco_folder.root)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{oops", "is no JSON"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": [], "annotations": {}, "categories": []}', "'annotations' is not a list"),
        ('{"images": [], "annotations": [], "categories": []}', "categories"),
    ],
)
def test_broken_files_are_named_with_what_is_wrong(coco_folder, text, expected):
    coco_folder.json.write_text(text)
    with pytest.raises(ValueError, match=expected) as caught:
        coco_dataset(coco_folder.json, coco_folder.images)
    assert str(coco_folder.json) in str(caught.value)


def test_classes_that_match_nothing_list_what_there_is(coco_folder):
    with pytest.raises(ValueError, match=r"horse.*cat.*dog.*cow"):
        coco_dataset(coco_folder.json, coco_folder.images, ["horse"])
    with pytest.raises(ValueError, match="distinct"):
        coco_dataset(coco_folder.json, coco_folder.images, ["cat", "cat"])
    with pytest.raises(ValueError, match="list"):
        coco_dataset(coco_folder.json, coco_folder.images, "cat")


@pytest.mark.parametrize("fault", ["image id", "width", "category id", "category name"])
def test_ambiguous_files_are_refused(coco_folder, fault):
    content = coco_folder.content
    if fault == "image id":
        content["images"][1]["id"] = 10
    elif fault == "width":
        del content["images"][1]["width"]
    elif fault == "category id":
        content["categories"][1]["id"] = 5
    else:
        content["categories"][1]["name"] = "dog"
    coco_folder.write()
    with pytest.raises(ValueError, match=str(coco_folder.json)):
        coco_dataset(coco_folder.json, coco_folder.images)


def test_boxes_as_fractions_are_refused_not_read_as_pixels(coco_folder, name):
    content = json.loads(coco_folder.json.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.3, 0.4]
    coco_folder.json.write_text(json.dumps(content))
    message = r"boxes are fractions .*\[0\.1, 0\.2, 0\.3, 0\.4\] of annotation \d+; expected pixels\. Try: .*--fix"
    with pytest.raises(UserError, match=message):
        coco_dataset(coco_folder.json, coco_folder.images, name=name)
    with pytest.raises(UserError, match=message):
        register_coco(name, coco_folder.json, coco_folder.images)
    content["annotations"][0]["bbox"] = [0, 0, 0.5, 0.5]  # one under a pixel among boxes in pixels is one of few
    for annotation in content["annotations"][1:]:
        annotation["bbox"] = [1, 2, 10, 10]
    coco_folder.json.write_text(json.dumps(content))
    assert coco_dataset(coco_folder.json, coco_folder.images, name=name)


def test_boxes_over_the_edge_are_counted(coco_folder, name, caplog):
    content = json.loads(coco_folder.json.read_text())
    coco_dataset(coco_folder.json, coco_folder.images)
    assert "over the edge" not in caplog.text
    content["annotations"][0]["bbox"] = [1000, 1000, 5, 5]
    content["annotations"][1]["bbox"] = [-3, 0, 10, 10]
    coco_folder.json.write_text(json.dumps(content))
    count = sum(len(record["annotations"]) for record in coco_dataset(coco_folder.json, coco_folder.images, name=name))
    assert f"2 of {count} boxes reach over the edge of their image, 1 of them lie outside of it" in caplog.text
