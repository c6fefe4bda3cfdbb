import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from helpers.paths import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loradet.config import load_config
from loradet.datasets import count_yolo_classes, yolo_class_names, yolo_dataset, yolo_to_coco
from loradet.datasets.files import cache_dir
from loradet.datasets.provenance import is_synthetic
from loradet.datasets.readers.yolo_description import label_file
from loradet.datasets.readers.yolo_labels import parse_label

_BCCD = Path(os.environ.get("LORADET_BCCD") or ROOT.parent / "shared" / "data" / "bccd")


class YoloFolder:
    def __init__(self, root: Path) -> None:
        self.root = root
        for split, names in {"train": ["a.jpg", "deep/b.PNG"], "val": ["c.jpg"]}.items():
            for name in names:
                image = root / "images" / split / name
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (80, 40), (90, 90, 90)).save(image)
        self.label("train/a.txt", "0 0.5 0.5 0.25 0.5\n2 0.1 0.1 0.2 0.2\n\n")
        self.label("train/deep/b.txt", "1 0.2 0.45 0.2 0.5\n")
        self.label("val/c.txt", "")
        self.yaml("train: images/train\nval: images/val\nnames: [cell, spot, dot]\n")

    def label(self, name: str, text: str) -> Path:
        path = self.root / "labels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def yaml(self, text: str) -> Path:
        self.path = self.root / "data.yaml"
        self.path.write_text(text)
        return self.path


@pytest.fixture
def yolo(tmp_path):
    return YoloFolder(tmp_path / "yolo")


def _read(yolo, split="train") -> dict:
    json_file, _ = yolo_to_coco(yolo.path, split)
    return json.loads(json_file.read_text())


def test_boxes_polygons_and_category_ids(yolo):
    yolo.label("train/deep/b.txt", "1 0.1 0.2 0.3 0.2 0.3 0.6 0.2 0.7\n")
    json_file, image_root = yolo_to_coco(yolo.path, "train", polygons=True)
    content = json.loads(json_file.read_text())
    assert image_root == yolo.root / "images" / "train"
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "deep/b.PNG"]
    assert [(image["width"], image["height"]) for image in content["images"]] == [(80, 40)] * 2
    boxes = [ann["bbox"] for ann in content["annotations"]]
    np.testing.assert_allclose(boxes, [[30, 10, 20, 20], [0, 0, 16, 8], [8, 8, 16, 20]], atol=1e-9)
    assert [ann["category_id"] for ann in content["annotations"]] == [1, 3, 2]
    assert [category["name"] for category in content["categories"]] == ["cell", "spot", "dot"]
    assert not json_file.is_relative_to(yolo.root)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[on, off, no]", ["on", "off", "no"]),
        ("{0: yes, 1: null, 2: 007}", ["yes", "null", "007"]),
        ("[1, 2.0, 2024-01-01]", ["1", "2.0", "2024-01-01"]),
        ("[0012, 12:30, 1_000]", ["0012", "12:30", "1_000"]),
    ],
)
def test_names_are_taken_as_they_are_written(yolo, names, expected):
    yolo.yaml(f"train: images/train\nnames: {names}\n")
    assert yolo_class_names(yolo.path) == expected
    yolo_dataset(yolo.path, "train", name="yolo_names_" + expected[0])
    assert MetadataCatalog.get("yolo_names_" + expected[0]).thing_classes == expected


@pytest.mark.parametrize("description", ["file", "folder", "dict", "list", "txt", "path", "absolute", "dotted"])
def test_ways_to_describe_a_split(yolo, description):
    source = yolo.path
    if description == "folder":
        source = yolo.root
    elif description == "dict":
        yolo.yaml("train: images/train\nnc: 3\nnames: {2: dot, 0: cell, '1': spot}\n")
    elif description == "list":
        (yolo.root / "images" / "train" / "deep").rename(yolo.root / "images" / "more")
        (yolo.root / "labels" / "train" / "deep").rename(yolo.root / "labels" / "more")
        yolo.yaml("train: [images/train, images/more]\nnames: [cell, spot, dot]\n")
    elif description == "txt":
        (yolo.root / "train.txt").write_text("./images/train/deep/b.PNG\nimages/train/a.jpg\n")
        yolo.yaml("train: train.txt\nnames: [cell, spot, dot]\n")
    elif description == "path":
        source = yolo.root.parent / "data.yaml"
        source.write_text("path: yolo\ntrain: images/train\nnames: [cell, spot, dot]\n")
    elif description == "absolute":
        source = yolo.root.parent / "elsewhere" / "mine.yaml"
        source.parent.mkdir()
        source.write_text(f"path: {yolo.root}\ntrain: [images/train]\nnames: [cell, spot, dot]\n")
    elif description == "dotted":
        yolo.yaml("train: ../images/train\nnames: [cell, spot, dot]\n")
    json_file, image_root = yolo_to_coco(source, "train")
    content = json.loads(json_file.read_text())
    assert sorted(ann["category_id"] for ann in content["annotations"]) == [1, 2, 3]
    assert yolo_class_names(source) == ["cell", "spot", "dot"]
    assert count_yolo_classes(source) == 3
    assert count_yolo_classes(source, ["dot"]) == 1
    assert all((image_root / image["file_name"]).is_file() for image in content["images"])


def test_dataset_dicts_and_registration(yolo):
    records = yolo_dataset(yolo.path, "train", classes=["dot", "cell"], name="yolo_test_registration")
    assert [[ann["category_id"] for ann in record["annotations"]] for record in records] == [[1, 0], []]
    assert records[0]["file_name"] == str(yolo.root / "images" / "train" / "a.jpg")
    assert MetadataCatalog.get("yolo_test_registration").thing_classes == ["dot", "cell"]


@pytest.mark.parametrize("line", ["", "synthetic: true\n"])
def test_synthetic_images_stay_known_as_such(yolo, line):
    yolo.yaml(f"train: images/train\nnames: [cell, spot, dot]\n{line}")
    assert is_synthetic(yolo_to_coco(yolo.path, "train")[0]) is bool(line)


def test_an_image_without_labels_is_empty(yolo):
    (yolo.root / "labels" / "train" / "deep" / "b.txt").unlink()
    content = _read(yolo)
    assert len(content["images"]) == 2
    assert {ann["image_id"] for ann in content["annotations"]} == {1}
    assert _read(yolo, "val")["annotations"] == []


def test_linked_folders_are_read_once(yolo, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (yolo.root / "images" / "train" / "deep").rename(elsewhere)
    (yolo.root / "images" / "train" / "deep").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(yolo.root / "images" / "train")
    (yolo.root / "images" / "train" / "b_real").mkdir()
    Image.new("RGB", (80, 40)).save(yolo.root / "images" / "train" / "b_real" / "d.jpg")
    yolo.label("train/b_real/d.txt", "0 0.5 0.5 0.25 0.5\n")
    for link in ("a_link", "c_link"):
        (yolo.root / "images" / "train" / link).symlink_to("b_real")
    content = _read(yolo)
    assert sorted(image["file_name"] for image in content["images"]) == ["a.jpg", "b_real/d.jpg", "deep/b.PNG"]
    assert {ann["image_id"] for ann in content["annotations"]} == {image["id"] for image in content["images"]}


def test_a_split_of_background_alone(yolo, caplog):
    for file in (yolo.root / "labels").rglob("*.txt"):
        file.unlink()
    content = _read(yolo)
    assert len(content["images"]) == 2 and content["annotations"] == []
    assert "its 2 images count as empty" in caplog.text
    shutil.rmtree(yolo.root / "labels" / "train")
    with pytest.raises(FileNotFoundError, match=r"Expected, for example, .*labels/train/a\.txt"):
        _read(yolo)  # labels/ alone may be a layout of its own


def test_the_conversion_is_kept_until_labels_change(yolo):
    first, _ = yolo_to_coco(yolo.path, "train")
    stamp = first.stat().st_mtime_ns
    assert yolo_to_coco(yolo.path, "train")[0] == first
    assert first.stat().st_mtime_ns == stamp
    yolo.label("train/a.txt", "0 0.5 0.5 0.25 0.5\n")
    assert len(_read(yolo)["annotations"]) == 2


def test_boxes_are_clipped_and_those_without_area_dropped(yolo):
    yolo.label("train/a.txt", "0 0.0495 0.5 0.1 0.5\n1 0.5 0.5 0 0.5\n")
    boxes = [ann["bbox"] for ann in _read(yolo)["annotations"] if ann["image_id"] == 1]
    np.testing.assert_allclose(boxes, [[0, 10, 7.96, 20]], atol=1e-9)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0.5 0.5 0.2", "4 values"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 values"),
        ("0 0.5 half 0.2 0.2", "half"),
        ("3 0.5 0.5 0.2 0.2", "class 3.*0 to 2"),
        ("-1 0.5 0.5 0.2 0.2", "class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "class 0.5"),
        ("0 nan 0.5 0.2 0.2", "not finite"),
        ("0 0.5 0.5 0.2 inf", "not finite"),
        ("0 120 40 20 20", "within 0 to 1"),
        ("0 0.95 0.5 0.2 0.2", r"\(0.85, 0.4\) to \(1.05, 0.6\) leaves the image"),
        ("0 0.5 0.089 0.2 0.2", "leaves the image by 0.011 of its side.*data.clip=true.*--clip"),
        ("0 0.5 0.5 -0.2 0.2", "width -0.2"),
        ("0 0.5 0.5 0.2 0.2 0.9 0.1 0.1", "8 values"),
    ],
)
@pytest.mark.parametrize("polygons", [False, True])
def test_bad_labels_name_file_and_line(yolo, line, expected, polygons):
    path = yolo.label("train/a.txt", f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(ValueError, match=expected) as caught:
        yolo_to_coco(yolo.path, "train", polygons=polygons)
    assert f"{path}, line 2: " in str(caught.value)


def _boxes(yolo, caplog, text: str, **options) -> tuple[list, list[str]]:
    """Boxes of an image of 80 x 40, and what was said of them."""
    yolo.label("train/a.txt", text)
    caplog.clear()
    json_file, _ = yolo_to_coco(yolo.path, "train", **options)
    annotations = json.loads(json_file.read_text())["annotations"]
    return [ann["bbox"] for ann in annotations if ann["image_id"] == 1], [one.getMessage() for one in caplog.records]


def test_identical_lines_are_one_box_and_said_each_time(yolo, caplog):
    text = "0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5\n0 .5 .50 0.25 0.5\n0 0.5 0.5 0.25 0.5\n"
    for _ in range(2):  # the second time from the cache
        boxes, told = _boxes(yolo, caplog, text)
        assert boxes == [[30, 10, 20, 20]] * 2  # two classes stay two boxes
        expected = "identical lines of a label file are one box; left out: 2 (in labels/train/a.txt)."
        assert told == [f"{yolo.path}: {expected}"]
    yolo.label("train/deep/b.txt", text)
    assert _boxes(yolo, caplog, text)[1] == [
        f"{yolo.path}: {expected.replace('2 (in', '4 (in').replace('a.txt', 'a.txt, labels/train/deep/b.txt')}"
    ]


def test_up_to_a_hundredth_over_the_edge_is_clipped_and_said(yolo, caplog):
    assert _boxes(yolo, caplog, "0 0.0995 0.5 0.2 0.5\n") == ([[0, 10, 0.1995 * 80, 20]], [])  # rounding
    boxes, told = _boxes(yolo, caplog, "0 0.91 0.5 0.2 0.5\n0 0.5 0.5 0.25 0.5\n")
    np.testing.assert_allclose(boxes, [[0.81 * 80, 10, 0.19 * 80, 20], [30, 10, 20, 20]])
    assert told == [f"{yolo.path}: boxes that leave the image are clipped to it: 1 (in labels/train/a.txt)."]


def test_more_is_clipped_where_it_is_asked_for(yolo, caplog):
    boxes, told = _boxes(yolo, caplog, "0 0.9 0.5 0.4 0.5\n", clip=True)
    np.testing.assert_allclose(boxes, [[0.7 * 80, 10, 0.3 * 80, 20]])
    assert "clipped to it: 1" in told[0]
    assert len(yolo_dataset(yolo.path, "train", clip=True)[0]["annotations"]) == 1
    for line in ("0 1.5 0.5 0.4 0.5", "0 120 40 20 20"):  # nothing left, and pixels
        with pytest.raises(ValueError, match=r"a\.txt, line 1: the box from .* leaves the image wholly"):
            _boxes(yolo, caplog, line, clip=True)


def test_a_config_asks_for_it_by_data_clip(yolo):
    yolo.label("val/c.txt", "0 0.9 0.5 0.4 0.5\n")
    config, keys = str(ROOT / "configs" / "custom_detr.py"), [f"data.data_yaml={yolo.path}", "data.name=clip"]
    with pytest.raises(ValueError, match=r"data\.clip=true in a config"):
        instantiate(load_config(config, keys).dataloader.val.dataset)
    (record,) = instantiate(load_config(config, [*keys, "data.clip=true"]).dataloader.val.dataset)
    np.testing.assert_allclose(record["annotations"][0]["bbox"], [56, 10, 24, 20])


@pytest.mark.parametrize(("shape", "numbers"), [("[2, 3]", "0.5 0.5 2 0.6 0.5 0"), ("['3', 2]", "1 1 0 0 .2 1.7")])
def test_pose_labels_are_read_as_boxes(yolo, caplog, shape, numbers):
    line = f"1 0.5 0.5 0.25 0.5 {numbers}\n"
    with pytest.raises(ValueError, match=r"11 values.*kpt_shape: \[number, 2 or 3\]"):
        _boxes(yolo, caplog, line)
    yolo.yaml(f"train: images/train\nnames: [cell, spot, dot]\nkpt_shape: {shape}\n")
    assert _boxes(yolo, caplog, line + "0 0.5 0.5 0.5 0.5\n") == ([[30, 10, 20, 20], [20, 10, 40, 20]], [])
    with pytest.raises(ValueError, match=r"10 values\. Expected `class cx cy w h` and 6 numbers of keypoints"):
        _boxes(yolo, caplog, line.rsplit(" ", 1)[0])


@pytest.mark.parametrize("shape", ["3", "[17]", "[17, 4]", "[0, 2]", "[a, 2]"])
def test_a_wrong_kpt_shape_is_an_error(yolo, shape):
    yolo.yaml(f"train: images/train\nnames: [cell, spot, dot]\nkpt_shape: {shape}\n")
    with pytest.raises(ValueError, match=r"kpt_shape is .*Expected \[number of keypoints, 2 or 3\]"):
        yolo_to_coco(yolo.path, "train")


def test_two_images_of_one_label_file_are_a_fault_unless_it_is_empty(yolo, caplog):
    Image.new("RGB", (80, 40)).save(yolo.root / "images" / "train" / "a.png")
    with pytest.raises(ValueError, match=r"a\.txt: a\.jpg and a\.png have this one label file\. Rename one") as caught:
        _boxes(yolo, caplog, "0 0.5 0.5 0.25 0.5\n")
    assert "1 fault" in str(caught.value)
    assert _boxes(yolo, caplog, "") == ([], [])
    assert len(_read(yolo)["images"]) == 3
    # The way out that the message names.
    (yolo.root / "list.txt").write_text("images/train/a.png\nimages/train/deep/b.PNG\n")
    yolo.yaml("train: list.txt\nnames: [cell, spot, dot]\n")
    assert len(_boxes(yolo, caplog, "0 0.5 0.5 0.25 0.5\n")[0]) == 1


def test_a_polygon_that_leaves_the_image_is_a_fault(yolo):
    path = yolo.label("train/a.txt", "1 0.1 0.2 0.3 1.2 0.3 0.6\n")
    with pytest.raises(ValueError, match="leaves the image") as caught:
        yolo_dataset(yolo.path, "train", polygons=True)
    assert f"{path}, line 1: " in str(caught.value)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.2 0.2 0.1 0.1", "1 0.1 0.2 0.3 0.2 0.3 0.6 0.2 0.7"])
def test_what_may_be_a_polygon_is_a_fault_unless_asked_for(yolo, line):
    path = yolo.label("train/a.txt", f"\n{line}\n")
    for load in (yolo_to_coco, yolo_dataset):
        with pytest.raises(ValueError, match=rf"{len(line.split())} values\. Expected `class cx cy w h`\.") as caught:
            load(yolo.path, "train")
        assert f"{path}, line 2: " in str(caught.value)
        assert all(way in str(caught.value) for way in ("polygons=True", "data.polygons=true", "--polygons"))
    assert len(yolo_dataset(yolo.path, "train", polygons=True)[0]["annotations"]) == 1


@given(
    corners=st.tuples(*[st.integers(0, 4000)] * 4),
    digits=st.integers(3, 8),
)
def test_a_box_inside_the_image_may_be_rounded_to_three_digits(corners, digits):
    x, y = (sorted(value / 4000 for value in pair) for pair in (corners[:2], corners[2:]))
    values = [sum(x) / 2, sum(y) / 2, x[1] - x[0], y[1] - y[0]]
    _, x0, y0, x1, y1 = parse_label(["0", *(f"{value:.{digits}f}" for value in values)], 1)
    np.testing.assert_allclose([x0, x1, y0, y1], [*x, *y], atol=10.0**-digits)
    assert 0 <= min(x0, y0, x1, y1) <= max(x0, y0, x1, y1) <= 1


def test_all_faults_of_a_split_are_reported_at_once(yolo):
    first = yolo.label("train/a.txt", "0 2 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n")
    second = yolo.label("train/deep/b.txt", "0 0.5\n")
    broken = yolo.root / "images" / "train" / "c.jpg"
    broken.write_bytes(b"no image")
    binary = yolo.label("train/c.txt", "")
    binary.write_bytes(b"\xff\xfe\x00")
    expected = [f"{first}, line 1: ", f"{first}, line 3: ", f"{second}, line 1: ", f"{broken}: ", f"{binary}: "]
    for _ in range(2):  # what is faulty is not taken from the cache the second time
        with pytest.raises(ValueError, match="5 faults") as caught:
            yolo_to_coco(yolo.path, "train")
        lines = str(caught.value).splitlines()
        assert len(lines) == 6
        assert all(sum(line.startswith(f"- {start}") for line in lines) == 1 for start in expected)
    first.write_text("")
    second.write_text("")
    with pytest.raises(ValueError, match="2 faults"):
        yolo_to_coco(yolo.path, "train")


def test_a_long_list_of_faults_is_cut(yolo):
    path = yolo.label("train/a.txt", "9 0.5 0.5 0.2 0.2\n" * 25)
    with pytest.raises(ValueError, match=r"25 faults[^…]*… and 5 more\. All of them are in (.*)$") as caught:
        yolo_to_coco(yolo.path, "train")
    listed = Path(str(caught.value).rpartition(" are in ")[2])
    assert listed.is_relative_to(cache_dir("yolo"))
    assert re.findall(r"line (\d+)", listed.read_text()) == [str(number) for number in range(1, 26)]
    assert re.findall(r"line (\d+)", str(caught.value)) == [str(number) for number in range(1, 21)]
    assert str(caught.value).count(str(path)) == 20


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("train: [", ValueError, "not valid YAML"),
        ("just words", ValueError, "expected keys"),
        ("train: images/train", ValueError, "names"),
        ("train: images/train\nnames: {0: a, 2: b}", ValueError, "Expected 0 to 1"),
        ("train: images/train\nnc: 2\nnames: [a]", ValueError, "nc is 2"),
        ("train: images/train\nnames: [a, b, a]", ValueError, "names has 'a' twice"),
        ("train: images/train\nnames: [a, [b]]", ValueError, "Expected a name for each class"),
        ("train: images/train\nnames: [2024-13-45]", ValueError, "not valid YAML: month must be"),
        ("path: 5\ntrain: images/train\nnames: [a]", ValueError, "path is 5"),
        ("val: images/val\nnames: [a]", ValueError, "no split 'train'; it has val"),
        ("train: images/none\nnames: [a]", FileNotFoundError, "images/none"),
        ("train: labels\nnames: [a]", ValueError, "no image"),
    ],
)
def test_bad_descriptions_are_named(yolo, text, error, expected):
    yolo.yaml(text)
    with pytest.raises(error, match=expected) as caught:
        yolo_to_coco(yolo.path, "train")
    assert str(yolo.path) in str(caught.value)


def test_missing_files_are_named(yolo):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        yolo_to_coco(yolo.root / "nowhere.yaml", "train")
    (yolo.root / "train.txt").write_text("images/train/a.jpg\nimages/train/gone.jpg\n")
    yolo.yaml("train: train.txt\nnames: [cell, spot, dot]\n")
    with pytest.raises(ValueError, match=r"train\.txt, line 2.*gone\.jpg"):
        yolo_to_coco(yolo.path, "train")
    yolo.yaml("train: images/train\nnames: [cell, spot, dot]\n")
    shutil.rmtree(yolo.root / "labels")
    with pytest.raises(FileNotFoundError, match="labels"):
        yolo_to_coco(yolo.path, "train")
    yolo.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"one data\.yaml"):
        yolo_to_coco(yolo.root, "train")


def test_unreadable_image_is_named(yolo):
    (yolo.root / "images" / "train" / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg: cannot be read"):
        yolo_to_coco(yolo.path, "train")


def test_labels_of_images_outside_an_images_folder_lie_beside_them():
    assert label_file("/d/photos/1.jpg") == "/d/photos/1.txt"
    assert label_file("/d/my.images/1") == "/d/my.images/1.txt"


def test_the_last_images_folder_of_a_path_is_the_one_with_labels_beside_it():
    assert label_file("/d/images/x/images/1.tar.jpg") == "/d/images/x/labels/1.tar.txt"
    assert label_file("/images/images/deep/1.jpg") == "/images/labels/deep/1.txt"


def test_a_given_number_of_images_is_the_same_choice_every_time(yolo):
    for number in range(12):
        Image.new("RGB", (20, 10)).save(yolo.root / "images" / "train" / f"more{number}.jpg")
        yolo.label(f"train/more{number}.txt", "0 0.5 0.5 0.5 0.5\n" if number % 2 else "")
    records = yolo_dataset(yolo.path, "train", max_images=5)
    assert len(records) == 5
    assert all(record["annotations"] for record in records)
    again = yolo_dataset(yolo.path, "train", max_images=7)
    names, more = ([record["file_name"] for record in found] for found in (records, again))
    assert names == sorted(names)
    assert set(names) < set(more)
    ids = {record["file_name"]: record["image_id"] for record in yolo_dataset(yolo.path, "train")}
    assert all(ids[record["file_name"]] == record["image_id"] for record in records)
    assert len(yolo_dataset(yolo.path, "train", max_images=99)) == 14
    with pytest.raises(ValueError, match="max_images=0"):
        yolo_dataset(yolo.path, "train", max_images=0)


@pytest.mark.skipif(not _BCCD.is_dir(), reason=f"no BCCD data at {_BCCD} (LORADET_BCCD)")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_bccd_in_both_formats_has_the_same_boxes(split):
    json_file, image_root = yolo_to_coco(_BCCD, split)
    made = json.loads(json_file.read_text())
    given = json.loads((_BCCD / "annotations" / f"{split}.json").read_text())
    assert [category["name"] for category in made["categories"]] == [one["name"] for one in given["categories"]]

    def by_image(content: dict) -> dict[str, np.ndarray]:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        rows: dict[str, list] = {name: [] for name in names.values()}
        for ann in content["annotations"]:
            rows[names[ann["image_id"]]].append([ann["category_id"], *ann["bbox"]])
        return {name: np.array(sorted(np.round(boxes, 1).tolist())) for name, boxes in rows.items()}

    expected, found = by_image(given), by_image(made)
    assert found.keys() == expected.keys()
    for name, boxes in expected.items():
        np.testing.assert_allclose(found[name], boxes, atol=0.01, err_msg=name)
    assert all((image_root / name).is_file() for name in found)
