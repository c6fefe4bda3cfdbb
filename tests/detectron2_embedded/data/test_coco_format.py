import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import print_instances_class_histogram
from detectron2.data.datasets import convert_to_coco_json, load_coco_json, register_coco_instances
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.structures import BoxMode
from pycocotools import mask as coco_mask

CATEGORIES = [{"id": 40, "name": "tank"}, {"id": 3, "name": "ship"}, {"id": 7, "name": "car"}]


def annotation(annotation_id: int, image_id: int, category_id: int, **more) -> dict:
    box = more.pop("bbox", [1, 2, 10, 20])
    area = float(box[2] * box[3]) if box else 0.0
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
        **more,
    }


def write(path: Path, annotations: list[dict], image_ids=(5, 2), **changes) -> str:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 30} for i in image_ids]
    content = {"images": images, "categories": CATEGORIES, "annotations": annotations, **changes}
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.fixture
def register():
    names = []

    def add(name: str, function) -> None:
        names.append(name)
        DatasetCatalog.register(name, function)

    yield add
    for name in [*names, "format_test"]:
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.mark.usefixtures("register")
def test_sparse_category_ids_become_contiguous_in_order(tmp_path):
    file = write(tmp_path / "a.json", [annotation(1, 2, 40), annotation(2, 2, 3), annotation(3, 5, 7)])
    records = load_coco_json(file, "images", "format_test")
    assert MetadataCatalog.get("format_test").thing_classes == ["ship", "car", "tank"]
    assert [r["image_id"] for r in records] == [2, 5]
    assert [[a["category_id"] for a in r["annotations"]] for r in records] == [[2, 0], [1]]
    assert records[0]["file_name"] == "images/2.png"


def test_a_file_without_annotations_gives_records_without_any(tmp_path):
    path = tmp_path / "test-dev.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a", "height": 2, "width": 2}], "categories": []}))
    (record,) = load_coco_json(str(path), "")
    assert record["annotations"] == []


@pytest.mark.subset
@pytest.mark.parametrize(
    ("text", "words"), [("{", "not valid JSON"), ("[]", "COCO"), ('{"images": []}', "no categories")]
)
def test_what_is_not_coco_is_an_error_that_names_the_file(tmp_path, text, words):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"broken.json.*{words}"):
        load_coco_json(str(path), "")


@pytest.mark.subset
@pytest.mark.usefixtures("register")
@pytest.mark.parametrize(
    ("change", "error"),
    [({"category_id": 8}, KeyError), ({"bbox": []}, ValueError), ({"ignore": 1}, AssertionError)],
)
def test_a_bad_annotation_is_named(tmp_path, change, error):
    values = {"category_id": 3, **change}
    file = write(tmp_path / "a.json", [annotation(71, 5, **values)])
    with pytest.raises(error, match=r"a\.json: annotation 71 of image 5"):
        load_coco_json(file, "", "format_test")


def test_masks_in_every_notation(tmp_path):
    rle = {"size": [4, 3], "counts": [2, 4, 6]}
    polygons = [[0, 0, 1, 1], [0, 0, 4, 0, 4, 4]]
    file = write(
        tmp_path / "a.json",
        [
            annotation(1, 5, 3, segmentation=rle),
            annotation(2, 5, 3, segmentation=polygons),
            annotation(3, 5, 3, segmentation=[]),
            annotation(4, 5, 3, segmentation=polygons[:1]),
            annotation(5, 5, 3, keypoints=[1, 2, 2]),
        ],
    )
    annotations = load_coco_json(file, "")[1]["annotations"]
    assert isinstance(annotations[0]["segmentation"]["counts"], bytes)
    assert annotations[1]["segmentation"] == polygons[1:]
    assert "segmentation" not in annotations[2]
    assert annotations[3]["keypoints"] == [1.5, 2.5, 2]
    assert len(annotations) == 4


def test_registering_reads_nothing_yet(register, tmp_path):
    register("format_test", list)
    DatasetCatalog.remove("format_test")
    register_coco_instances("format_test", {"note": "x"}, str(tmp_path / "absent.json"), "images")
    metadata = MetadataCatalog.get("format_test")
    assert (metadata.evaluator_type, metadata.note, metadata.image_root) == ("coco", "x", "images")
    # A config that registers is read more than once.
    register_coco_instances("format_test", {"note": "x"}, str(tmp_path / "absent.json"), "images")
    with pytest.raises(AssertionError, match="json_file"):
        register_coco_instances("format_test", {"note": "x"}, str(tmp_path / "other.json"), "images")
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        DatasetCatalog.get("format_test")


def test_records_written_as_coco_read_back(register, tmp_path):
    records = [
        {
            "file_name": f"{i}.png",
            "height": 50,
            "width": 60,
            "image_id": i,
            "annotations": [
                {"bbox": [1.0, 2.0, 11.0, 22.5], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1},
                {"bbox": [3, 4, 5, 6], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 1},
            ][:i],
        }
        for i in range(3)
    ]
    register("format_test", lambda: records)
    MetadataCatalog.get("format_test").set(
        thing_classes=["ship", "tank"], thing_dataset_id_to_contiguous_id={4: 0, 9: 1}
    )
    file = tmp_path / "new" / "out.json"
    convert_to_coco_json("format_test", str(file))
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["categories"] == [{"id": 4, "name": "ship"}, {"id": 9, "name": "tank"}]
    assert [a["category_id"] for a in content["annotations"]] == [9, 9, 4]
    assert [a["area"] for a in content["annotations"]] == [205, 205, 30]
    back = load_coco_json(str(file), "", "format_test")
    assert [len(r["annotations"]) for r in back] == [0, 1, 2]
    assert back[2]["annotations"][0]["bbox"] == [1, 2, 10, 20.5]
    assert back[2]["annotations"][1]["iscrowd"] == 1


@pytest.mark.subset
def test_writing_leaves_nothing_else_behind(register, tmp_path):
    register("format_test", list)
    MetadataCatalog.get("format_test").set(thing_classes=[])
    convert_to_coco_json("format_test", str(tmp_path / "new" / "out.json"))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.json"]


def test_a_written_file_is_kept_or_replaced(register, tmp_path, caplog):
    register("format_test", list)
    MetadataCatalog.get("format_test").set(thing_classes=[])
    file = tmp_path / "out.json"
    file.write_text("mine")
    convert_to_coco_json("format_test", str(file), allow_cached=True)
    assert file.read_text() == "mine"
    assert "out.json" in caplog.text
    convert_to_coco_json("format_test", str(file), allow_cached=False)
    assert json.loads(file.read_text())["images"] == []


UNCOMPRESSED = {"size": [4, 4], "counts": [3, 5, 8]}


def written_annotations(register, tmp_path, *segmentations) -> list[dict]:
    annotations = [{"bbox": [0, 0, 4, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0} for _ in segmentations]
    for annotation, segmentation in zip(annotations, segmentations):
        if segmentation is not None:
            annotation["segmentation"] = segmentation
    record = {"file_name": "a", "height": 4, "width": 4, "image_id": 1, "annotations": annotations}
    register("format_test", lambda: [record])
    MetadataCatalog.get("format_test").set(thing_classes=["ship"])
    convert_to_coco_json("format_test", str(tmp_path / "a.json"))
    return json.loads((tmp_path / "a.json").read_text())["annotations"]


def test_masks_come_along_and_give_the_area(register, tmp_path):
    polygons, mask = [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]], coco_mask.frPyObjects(UNCOMPRESSED, 4, 4)
    written = written_annotations(register, tmp_path, polygons, mask, None)
    assert [annotation["area"] for annotation in written] == [8, 5, 16]
    assert written[0]["segmentation"] == polygons
    assert coco_mask.area(written[1]["segmentation"]) == 5
    assert "segmentation" not in written[2]


@pytest.mark.subset
def test_masks_without_compression_and_polygons_as_arrays_come_along(register, tmp_path):
    """Detectron2 stops at both."""
    triangle = np.array([[0, 0], [4, 0], [4, 4]])
    written = written_annotations(register, tmp_path, UNCOMPRESSED, [triangle], [])
    assert [annotation["area"] for annotation in written] == [5, 8, 16]
    assert [annotation["segmentation"] for annotation in written] == [UNCOMPRESSED, [[0, 0, 4, 0, 4, 4]], []]


def record(*category_ids: int, crowd: int = 0) -> dict:
    box = {"bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": crowd}
    return {
        "file_name": "x.png",
        "image_id": 3,
        "annotations": [{**box, "category_id": c} for c in category_ids],
    }


def test_data_sets_are_joined_and_emptied(register, caplog):
    caplog.set_level("INFO")
    register("one", lambda: [record(0, 1), record()])
    register("two", lambda: [record(1), record(0, crowd=1)])
    for name in ("one", "two"):
        MetadataCatalog.get(name).set(thing_classes=["ship", "tank"])
    assert len(get_detection_dataset_dicts(["one", "two"])) == 2
    assert "Removed 2 images" in caplog.text
    assert len(get_detection_dataset_dicts(["one", "two"], filter_empty=False)) == 4
    assert len(get_detection_dataset_dicts("one")) == 1


def test_data_sets_that_do_not_fit_together_are_errors(register):
    register("one", lambda: [record(0)])
    register("two", lambda: [record(0)])
    register("none", list)
    register("background", lambda: [record()])
    MetadataCatalog.get("one").set(thing_classes=["ship"])
    MetadataCatalog.get("two").set(thing_classes=["tank"])
    with pytest.raises(ValueError, match="thing_classes"):
        get_detection_dataset_dicts(["one", "two"])
    with pytest.raises(AssertionError, match="'none' is empty"):
        get_detection_dataset_dicts(["one", "none"])
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts("background")
    with pytest.raises(AssertionError):
        get_detection_dataset_dicts([])


@pytest.mark.subset
def test_data_sets_that_do_not_fit_together_are_named(register):
    register("one", lambda: [record(0)])
    register("two", lambda: [record(0)])
    register("background", lambda: [record()])
    MetadataCatalog.get("one").set(thing_classes=["ship"])
    MetadataCatalog.get("two").set(thing_classes=["tank"])
    with pytest.raises(ValueError, match=r"thing_classes.*'one'.*'two'"):
        get_detection_dataset_dicts(["one", "two"])
    with pytest.raises(AssertionError, match="usable"):
        get_detection_dataset_dicts("background")
    with pytest.raises(NotImplementedError, match="proposal_files"):
        get_detection_dataset_dicts("one", proposal_files=["a.pkl"])
    with pytest.raises(AssertionError, match="no data set"):
        get_detection_dataset_dicts([])


def test_classes_that_are_not_known_stand_in_no_ones_way(register):
    """As in Detectron2 0.6 (main of 2026-06-06): a data set may have no class names."""
    register("one", lambda: [record(0)])
    register("two", lambda: [record(0)])
    MetadataCatalog.get("one").set(thing_classes=["ship"])
    assert len(get_detection_dataset_dicts(["one", "two"])) == 2
    assert len(get_detection_dataset_dicts(["two", "one"])) == 2
    with pytest.raises(AttributeError):
        check_metadata_consistency("thing_classes", ["one", "two"])
    check_metadata_consistency("thing_classes", ["one"])
    check_metadata_consistency("thing_classes", [])


def test_histogram(caplog):
    caplog.set_level("INFO")
    print_instances_class_histogram([record(0, 2, 2), record(1, crowd=1)], ["ship", "tank", "car"])
    cells = [cell.strip() for cell in caplog.text.split("|")]
    counts = {name: cells[cells.index(name) + 1] for name in ("ship", "tank", "car", "total")}
    assert counts == {"ship": "1", "tank": "0", "car": "2", "total": "3"}


@pytest.mark.subset
def test_a_category_id_without_class_is_named():
    with pytest.raises(AssertionError, match=r"x\.png.*image_id 3.*\[5\].*3 classes"):
        print_instances_class_histogram([record(5)], ["ship", "tank", "car"])
