"""What the values of real exports mean: each is read for it in training and evaluation, or refused by entry and key."""

import codecs
import json
import logging
import os
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from loradet.datasets import check, coco_dataset, fix, make_subset, summarize
from loradet.datasets.annotations import read_annotations, reader
from loradet.errors import UserError
from loradet.evaluation.analysis.error_breakdown import break_down_errors
from loradet.evaluation.coco_metrics import coco_metrics
from loradet.evaluation.detections.records import read_records
from loradet.evaluation.ground_truth_check import check_ground_truth

_numbers = count()


def feed_back(json_file, images, **options) -> dict[str, float]:
    """AP of a file's boxes as detections, by Detectron2's evaluator and by our own metrics; counts of what was read."""
    limit = options.pop("max_dets_per_image", None)
    name = f"annotations_test_{next(_numbers)}"
    records = coco_dataset(json_file, images, name=name, **options)
    folder = json_file.parent / name
    evaluator = COCOEvaluator(name, output_dir=str(folder), max_dets_per_image=limit, use_fast_impl=False)
    evaluator.reset()
    for record in records:
        kept = [ann for ann in record["annotations"] if not ann["iscrowd"]]
        xyxy = torch.tensor([ann["bbox"] for ann in kept], dtype=torch.float32).reshape(-1, 4)
        xyxy[:, 2:] += xyxy[:, :2]
        found = Instances((record["height"], record["width"]))
        found.pred_boxes, found.scores = Boxes(xyxy), torch.linspace(0.9, 0.5, len(kept))
        found.pred_classes = torch.tensor([ann["category_id"] for ann in kept], dtype=torch.int64)
        evaluator.process([record], [{"instances": found}])
    result = evaluator.evaluate()["bbox"]
    metadata = MetadataCatalog.get(name)
    predictions = folder / "coco_instances_results.json"
    own = coco_metrics(metadata.json_file, predictions, max_detections=limit)
    check_ground_truth(metadata, max_detections=limit or 100)
    errors = break_down_errors(read_records(metadata.json_file, predictions))
    return {
        "AP": result["AP"],
        "own": 100 * own["coco/bbox_mAP"],
        "missed": errors.counts["missed"],
        "images": len(records),
        "boxes": sum(len(record["annotations"]) for record in records),
        "crowd": sum(ann["iscrowd"] for record in records for ann in record["annotations"]),
    }


PERFECT = {"AP": pytest.approx(100), "own": pytest.approx(100), "missed": 0, "images": 3, "boxes": 4, "crowd": 1}


def test_a_plain_file_is_read_as_it_is(coco_folder):
    file = read_annotations(coco_folder.json)
    assert file.plain
    assert file.images.ids == [10, 7, 31]
    assert file.boxes.xywh.tolist() == [[4, 4, 20, 10], [30, 10, 10.5, 20], [0, 0, 40, 40], [5, 5, 30, 30]]
    assert file.boxes.image.tolist() == [0, 0, 1, 1]
    assert [file.categories[place].name for place in file.boxes.category] == ["dog", "cat", "cow", "cat"]
    assert file.boxes.crowd.tolist() == [False, False, False, True]
    assert feed_back(coco_folder.json, coco_folder.images) == PERFECT


def _set(table: str, key: str, convert):
    def change(content: dict) -> None:
        for entry in content[table]:
            if key in entry:
                entry[key] = convert(entry[key])

    return change


def _all(*changes):
    def change(content: dict) -> None:
        for one in changes:
            one(content)

    return change


def _half(convert):
    turn = count()
    return lambda value: convert(value) if next(turn) % 2 else value


CONVERTED = {
    "annotation ids are texts": _set("annotations", "id", str),
    "annotation ids are texts from 0": _set("annotations", "id", lambda number: str(number - 1)),
    "annotation ids are words": _set("annotations", "id", lambda number: f"box {number}"),
    "annotation ids are floats": _set("annotations", "id", float),
    "annotation ids are mixed": _set("annotations", "id", _half(str)),
    "annotation ids are lists": _set("annotations", "id", lambda number: [number]),
    "annotation ids are too large": _set("annotations", "id", lambda number: 10**400 + number),
    "annotation ids are null": _set("annotations", "id", lambda _: None),
    "iscrowd is a text": _set("annotations", "iscrowd", str),
    "iscrowd is a boolean": _set("annotations", "iscrowd", bool),
    "iscrowd is a float": _set("annotations", "iscrowd", float),
    "iscrowd is true or false in words": _set("annotations", "iscrowd", lambda flag: str(bool(flag))),
    "iscrowd is null": _set("annotations", "iscrowd", lambda flag: flag or None),
    "all ids are floats": _all(
        *(_set(table, "id", float) for table in ("images", "annotations", "categories")),
        *(_set("annotations", key, float) for key in ("image_id", "category_id")),
    ),
    "all ids are texts": _all(
        *(_set(table, "id", str) for table in ("images", "annotations", "categories")),
        *(_set("annotations", key, str) for key in ("image_id", "category_id")),
    ),
    "all ids are texts of floats": _all(
        *(_set(table, "id", lambda n: f"{n}.0") for table in ("images", "annotations", "categories")),
        *(_set("annotations", key, lambda n: f"{n}.0") for key in ("image_id", "category_id")),
    ),
    "image ids are texts in annotations alone": _set("annotations", "image_id", str),
    "image ids are texts in images alone": _set("images", "id", str),
    "image ids are mixed": _set("images", "id", lambda number: "seven" if number == 7 else number),
    "image ids are words": _all(
        _set("images", "id", lambda number: f"image {number}"),
        _set("annotations", "image_id", lambda number: f"image {number}"),
    ),
    "category ids are texts": _set("annotations", "category_id", str),
    "category ids are texts in categories alone": _set("categories", "id", str),
    "sizes are texts": _all(_set("images", "width", str), _set("images", "height", str)),
    "sizes are floats": _all(_set("images", "width", float), _set("images", "height", float)),
    "boxes are texts": _set("annotations", "bbox", lambda box: [str(number) for number in box]),
    "areas are texts": _set("annotations", "area", str),
    "areas are zero": _set("annotations", "area", lambda _: 0),
    "areas are negative": _set("annotations", "area", lambda area: -area),
    "areas are null": _set("annotations", "area", lambda _: None),
    "areas are lists": _set("annotations", "area", lambda area: [area]),
    "areas are too large": _set("annotations", "area", lambda _: 10**400),
    "areas are larger than pycocotools counts": _set("annotations", "area", lambda _: 1e12),
}
CONVERTED["image ids are mixed"] = _all(
    CONVERTED["image ids are mixed"],
    _set("annotations", "image_id", lambda number: "seven" if number == 7 else number),
)


@pytest.mark.parametrize("case", CONVERTED)
def test_values_of_one_meaning_are_read_for_it_and_fix_writes_it(coco_folder, case):
    CONVERTED[case](coco_folder.content)
    path = coco_folder.write()
    assert feed_back(path, coco_folder.images) == PERFECT
    assert read_annotations(path).plain == (case == "image ids are words")
    fixed = coco_folder.root / "fixed.json"
    fix(path, coco_folder.images, fixed)
    assert check(fixed, coco_folder.images).ok
    assert len(json.loads(fixed.read_text())["annotations"]) == 4
    assert feed_back(fixed, coco_folder.images) == PERFECT
    assert "2 boxes" not in summarize(path)
    subset = make_subset(path, coco_folder.root / "subset.json", 2)
    assert (len(subset["images"]), len(subset["annotations"])) == (2, 4)


@pytest.mark.parametrize(
    "value", ["maybe", "", 2, -1, 0.5, [], {}, [1], {"a": 1}, "2", 1e308, 10**400, "null"], ids=str
)
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_a_flag_that_is_neither_yes_nor_no_is_refused(coco_folder, key, value):
    coco_folder.content["annotations"][2][key] = value
    path = coco_folder.write()
    with pytest.raises(UserError, match=rf"instances\.json: entry 2 of annotations \(id 3\): {key} is .*check .*--fix"):
        coco_dataset(path, coco_folder.images)
    assert check(path, coco_folder.images).counts() == {f"broken {key}": 1}
    fixed = coco_folder.root / "fixed.json"
    fix(path, coco_folder.images, fixed)
    assert feed_back(fixed, coco_folder.images) == {**PERFECT, "crowd": 2}


REFUSED = {
    "annotations.bbox": [
        [1, 2, 3],
        [1, 2, 3, "x"],
        [1, 2, 3, None],
        [1, 2, 3, float("nan")],
        [0, 0, 1e300, 1],
        "1 2 3 4",
    ],
    "annotations.category_id": [None, "ship", [5], {}, 1.5, True, 10**400, float("inf")],
    "annotations.image_id": [None, [10], {}, 1.5, True, 10**400, float("nan")],
    "images.id": [None, [10], {}, 1.5, True, 10**400],
    "images.file_name": [None, "", ["a.jpg"], {}, True, float("nan"), "\ud800.jpg"],
    "images.width": [None, 0, -1, "wide", "-1", 64.5, [64], True, 10**400],
    "images.height": [None, 0, -1, "", 48.5, {}],
    "categories.id": [None, "ship", [5], 1.5, True, 10**400],
    "categories.name": [None, ["dog"], {}, True],
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, many in REFUSED.items() for value in many], ids=str
)
def test_what_has_not_one_meaning_is_refused_by_entry_and_key(coco_folder, place, value):
    table, key = place.split(".")
    coco_folder.content[table][1][key] = value
    path = coco_folder.write()
    for read in (
        lambda: coco_dataset(path, coco_folder.images),
        lambda: make_subset(path, coco_folder.root / "subset.json", 1),
        lambda: summarize(path),
    ):
        with pytest.raises(UserError, match=rf"instances\.json: entry 1 of {table}( \(id .*\))?: {key} is ") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert not check(path, coco_folder.images).ok
    fixed = coco_folder.root / "fixed.json"
    fix(path, coco_folder.images, fixed)
    assert check(fixed, coco_folder.images).ok
    read_annotations(fixed)


def test_fix_numbers_odd_ids_anew_and_keeps_their_boxes(coco_folder):
    for table, key in (("images", "id"), ("annotations", "image_id")):
        for entry in coco_folder.content[table]:
            entry[key] = [entry[key]]
    for table, key in (("categories", "id"), ("annotations", "category_id")):
        for entry in coco_folder.content[table]:
            entry[key] = f"class {entry[key]}"
    fixed = coco_folder.root / "fixed.json"
    fix(coco_folder.write(), coco_folder.images, fixed)
    assert feed_back(fixed, coco_folder.images) == PERFECT


def test_every_kind_of_fault_is_named_with_its_count(coco_folder):
    for image in coco_folder.content["images"][:2]:
        image.update(width=-1, height=-1)
    with pytest.raises(UserError) as caught:
        coco_dataset(coco_folder.write(), coco_folder.images)
    expected = "entry 0 of images (id 10): width is -1, expected a whole number of pixels above 0 (and so in 1 more: 1)"
    assert expected in str(caught.value)
    fixed = coco_folder.root / "fixed.json"
    fix(coco_folder.json, coco_folder.images, fixed)
    assert feed_back(fixed, coco_folder.images) == PERFECT


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-8 with NaN", "utf-8 with halves"]
)
def test_encodings_that_other_tools_do_not_read(coco_folder, encoding):
    coco_folder.content["categories"][0]["name"] = "café"
    if "halves" in encoding:
        coco_folder.content["info"] = {"by": "\ud83d"}
    coco_folder.content["images"][0]["score"] = float("nan") if "NaN" in encoding else 0.5
    text = json.dumps(coco_folder.content, ensure_ascii="halves" in encoding)
    coco_folder.json.write_bytes(text.encode(encoding.split()[0]))
    assert feed_back(coco_folder.json, coco_folder.images) == PERFECT
    assert check(coco_folder.json, coco_folder.images).counts() == {"odd encoding": 1}
    fixed = coco_folder.root / "fixed.json"
    fix(coco_folder.json, coco_folder.images, fixed)
    assert check(fixed, coco_folder.images).ok
    assert feed_back(fixed, coco_folder.images) == PERFECT


@pytest.mark.parametrize(
    "data",
    [b"", codecs.BOM_UTF8, b'{"images": [', b"\x00\x00", b"[" * 10**6, b'{"images": "\xff"}', b"null", b"1e999"],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_is_refused(coco_folder, data):
    coco_folder.json.write_bytes(data)
    for read in (read_annotations, summarize, lambda path: check(path, coco_folder.images)):
        with pytest.raises(UserError, match=r"instances\.json( |: )") as caught:
            read(coco_folder.json)
        assert "\n" not in str(caught.value)


def test_invalid_utf8_in_what_is_not_read_is_refused_at_the_start(coco_folder):
    text = json.dumps({**coco_folder.content, "info": {"by": "?"}}).encode()
    coco_folder.json.write_bytes(text.replace(b'"?"', b'"\xe9"'))
    with pytest.raises(UserError, match=r"instances\.json is no JSON"):
        coco_dataset(coco_folder.json, coco_folder.images)


@pytest.mark.parametrize("flag", [1, True, "1", 1.0])
def test_boxes_to_be_ignored_count_as_crowd(coco_folder, flag):
    coco_folder.content["annotations"][0]["ignore"] = flag
    coco_folder.content["annotations"][1]["ignore"] = 0
    path = coco_folder.write()
    assert feed_back(path, coco_folder.images) == {**PERFECT, "crowd": 2}
    report = check(path, coco_folder.images)
    assert "1 boxes say ignore" in report.text()
    assert report.ok == (flag is 1)  # noqa: F632
    assert "2 boxes, 2 crowd boxes" in summarize(path)


def test_a_file_of_crowd_regions_alone_says_so(coco_folder, caplog):
    for ann in coco_folder.content["annotations"]:
        ann["iscrowd"] = 1
    path = coco_folder.write()
    coco_dataset(path, coco_folder.images, name="annotations_all_crowd")
    assert "all of its 4 boxes are crowd regions" in caplog.text
    with pytest.raises(UserError, match=r"none of its 3 images can be used.*all of its 4 boxes are crowd regions"):
        coco_dataset(path, coco_folder.images, filter_empty=True)
    with pytest.raises(UserError, match=r"none of its 4 annotations is a box to find: 4 crowd regions"):
        check_ground_truth(MetadataCatalog.get("annotations_all_crowd"))
    assert "all 4 boxes are crowd regions" in check(path, coco_folder.images).text()


def test_a_split_without_a_box_to_find_ends_an_evaluation_with_counts(coco_folder):
    for number, ann in enumerate(coco_folder.content["annotations"]):
        ann.update({"category_id": 77} if number else {"bbox": [1, 1, 0, 5]})
    coco_dataset(coco_folder.write(), coco_folder.images, name="annotations_no_box")
    with pytest.raises(
        UserError, match="none of its 4 annotations is a box to find: 3 of categories that the file lacks"
    ):
        check_ground_truth(MetadataCatalog.get("annotations_no_box"))


def test_images_left_out_are_not_missed(coco_folder, caplog):
    path = coco_folder.write()
    found = feed_back(path, coco_folder.images, min_size=45)
    assert found == {**PERFECT, "images": 1, "boxes": 2, "crowd": 0}
    assert "left out 2 images under 45 pixels" in caplog.text
    with pytest.raises(UserError, match="none of its 3 images can be used: 3 under 100 pixels"):
        coco_dataset(path, coco_folder.images, min_size=100)


def test_one_limit_of_detections_for_both_metrics(coco_folder):
    boxes = [[x, y, 3, 3] for x in range(0, 60, 4) for y in range(0, 40, 4)]
    coco_folder.content["annotations"] = [coco_folder.box(n, 10, 5, box) for n, box in enumerate(boxes, start=1)]
    path = coco_folder.write()
    all_found = feed_back(path, coco_folder.images, max_dets_per_image=300)
    assert (all_found["AP"], all_found["own"]) == (pytest.approx(100), pytest.approx(100))
    limited = feed_back(path, coco_folder.images)
    assert limited["AP"] == pytest.approx(limited["own"])
    assert limited["AP"] < 70


def test_a_file_is_parsed_once_until_it_changes(coco_folder, monkeypatch):
    reads = []
    read_bytes = reader.read_bytes
    monkeypatch.setattr(reader, "read_bytes", lambda path: reads.append(Path(path).name) or read_bytes(path))
    path = coco_folder.write("once.json")
    os.utime(path, (1, 1))  # changed long ago
    first = read_annotations(path)
    feed_back(path, coco_folder.images)
    summarize(path)
    assert read_annotations(path) is first
    assert reads.count("once.json") == 1
    coco_folder.content["annotations"].pop()
    path = coco_folder.write("once.json")
    assert len(read_annotations(path).boxes) == 3
    assert reads.count("once.json") == 2


def test_what_was_converted_is_logged_with_counts(coco_folder, caplog):
    CONVERTED["iscrowd is a text"](coco_folder.content)
    with caplog.at_level(logging.INFO, "loradet"):
        coco_dataset(coco_folder.write(), coco_folder.images)
    assert "read for what it means: 4 values of iscrowd" in caplog.text


def test_a_copy_of_an_earlier_version_is_not_used(coco_folder, monkeypatch):
    from loradet.datasets import ground_truth

    CONVERTED["areas are zero"](coco_folder.content)
    path, copies = coco_folder.write(), set()
    for version in ("1", "2"):
        monkeypatch.setattr(ground_truth, "_VERSION", version)
        copies.add(ground_truth.ground_truth(read_annotations(path), ["cat", "dog", "cow"])[0])
    assert len(copies) == 2


def test_a_file_that_another_reader_registered_is_tried_as_it_is(coco_folder):
    metadata = MetadataCatalog.get("annotations_foreign").set(json_file=str(coco_folder.json))
    check_ground_truth(metadata)
    CONVERTED["annotation ids are words"](coco_folder.content)
    coco_folder.write()
    with pytest.raises(UserError, match=r"pycocotools cannot evaluate.*annotation ids.*coco_dataset"):
        check_ground_truth(metadata)


def test_a_large_file_is_tried_on_some_images(coco_folder):
    content, box = coco_folder.content, coco_folder.box
    content["images"] = [{"id": n, "file_name": "a.jpg", "width": 64, "height": 48} for n in range(1, 1001)]
    rare = box(3000, 777, 90, [2, 2, 9, 9])
    content["annotations"] = [box(n, n, 5, [4, 4, 20, 10]) for n in range(1, 1001)] + [rare]
    path = coco_folder.write()
    metadata = MetadataCatalog.get("annotations_large").set(json_file=str(path))
    check_ground_truth(metadata)


def test_columns_are_small(coco_folder):
    boxes = read_annotations(coco_folder.json).boxes
    assert all(isinstance(column, np.ndarray) for column in vars(boxes).values())
