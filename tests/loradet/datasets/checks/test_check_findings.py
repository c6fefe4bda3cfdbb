"""What hurts a training and is no broken entry: what `check` says of it, and what `fix` makes of it."""

import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from loradet.datasets import check, fix, yolo_to_coco
from loradet.datasets.checks import Split, check_splits, splits_of
from loradet.datasets.checks.findings import Problem, listed
from loradet.errors import UserError


def _found(folder) -> list[tuple]:
    return [(one.kind, one.image_id, one.file_name) for one in check(folder.write(), folder.images).problems]


def _warned(folder) -> list[tuple]:
    report = check(folder.write(), folder.images)
    assert report.ok, report.text()
    assert all(str(one) in report.text() for one in report.warnings)
    return [(one.kind, one.image_id, one.file_name) for one in report.warnings]


def _fixed(folder) -> dict:
    output = folder.root / "fixed.json"
    fix(folder.write(), folder.images, output)
    report = check(output, folder.images)
    assert report.ok, report.text()
    return json.loads(output.read_text())


def _paint(path, size=(64, 48), seed=7, **options) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def _add_image(folder, number: int, name: str, size=(64, 48)) -> None:
    folder.content["images"].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "copy.jpg"])
def test_one_picture_under_two_ids(coco_folder, name):
    shutil.copy(coco_folder.images / "a.jpg", coco_folder.images / "copy.jpg")
    _add_image(coco_folder, 55, name)
    annotations = coco_folder.content["annotations"]
    annotations += [coco_folder.box(8, 55, 90, [1, 2, 5, 6]), coco_folder.box(9, 55, 5, [4, 4, 20, 10])]
    assert _found(coco_folder) == [("picture under two ids", 55, name), ("duplicate box", 10, "a.jpg")]
    fixed = _fixed(coco_folder)
    assert [image["id"] for image in fixed["images"]] == [10, 7, 31]
    # The annotations of both: the one that both have is there once.
    assert [(ann["id"], ann["image_id"]) for ann in fixed["annotations"]] == [(1, 10), (2, 10), (3, 7), (4, 7), (8, 10)]


def test_pictures_are_compared_by_their_pixels(coco_folder):
    _paint(coco_folder.images / "one.png")
    _paint(coco_folder.images / "again.png", compress_level=1)
    _paint(coco_folder.images / "other.png", seed=8)
    for number, name in enumerate(("one.png", "again.png", "other.png"), start=50):
        _add_image(coco_folder, number, name)
    assert _found(coco_folder) == [("picture under two ids", 51, "again.png")]


def test_jpegs_that_differ_in_detail_alone_are_two_pictures(coco_folder):
    blocks = np.kron(np.random.default_rng(0).integers(0, 200, (6, 8)), np.ones((8, 8))).astype(np.uint8)
    detail = np.tile([[0, 40], [40, 0]], (24, 32)).astype(np.uint8)
    Image.fromarray(blocks + detail).save(coco_folder.images / "one.jpg", quality=95)
    Image.fromarray(blocks + detail[::-1]).save(coco_folder.images / "two.jpg", quality=95)
    _add_image(coco_folder, 50, "one.jpg")
    _add_image(coco_folder, 51, "two.jpg")
    assert _found(coco_folder) == []


def test_boxes_under_a_pixel(coco_folder):
    annotations = coco_folder.content["annotations"]
    annotations += [
        coco_folder.box(8, 10, 5, [3, 3, 0.6, 20]),
        coco_folder.box(9, 10, 5, [3, 3, 1, 1]),
        coco_folder.box(10, 10, 5, [0.1, 0.2, 0.3, 0.4]),
    ]
    assert _found(coco_folder) == [("box under a pixel", 10, "a.jpg")] * 2
    assert [ann["id"] for ann in _fixed(coco_folder)["annotations"]] == [1, 2, 3, 4, 9]


@pytest.mark.parametrize("centred", [False, True])
def test_boxes_as_fractions_become_pixels(coco_folder, centred):
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco_folder.content["images"]}
    before = [ann["bbox"] for ann in coco_folder.content["annotations"]]
    for ann in coco_folder.content["annotations"]:
        x, y, width, height = ann["bbox"]
        x, y = (x + width / 2, y + height / 2) if centred else (x, y)
        across, down = sizes[ann["image_id"]]
        ann["bbox"] = [x / across, y / down, width / across, height / down]
    report = check(coco_folder.write(), coco_folder.images)
    assert report.counts() == {"box as fractions": 4}
    assert ("centre x" if centred else "are fractions (x, y") in report.text()
    assert "multiplies it by the picture's size" in report.text()
    fixed = _fixed(coco_folder)["annotations"]
    np.testing.assert_allclose([ann["bbox"] for ann in fixed], before, atol=1e-9)
    np.testing.assert_allclose([ann["area"] for ann in fixed], [box[2] * box[3] for box in before])


def test_identical_boxes_are_one(coco_folder):
    annotations = coco_folder.content["annotations"]
    annotations += [
        coco_folder.box(8, 10, 5, [4.0, 4, 20, 10]),  # that of 1
        coco_folder.box(9, 10, 90, [4, 4, 20, 10]),  # of another class
        coco_folder.box(10, 7, 90, [4, 4, 20, 10]),  # in another picture
        coco_folder.box(11, 10, 5, [4, 4, 20, 10], iscrowd=1),  # a crowd region
        coco_folder.box(12, 7, 90, [-1, 0, 50, 40]),  # that of 3, once it is clipped
    ]
    report = check(coco_folder.write(), coco_folder.images)
    assert report.counts() == {"box outside image": 1, "duplicate box": 2}
    assert "annotation 8 is the box [4, 4, 20, 10] of annotation 1 again" in report.text()
    assert [ann["id"] for ann in _fixed(coco_folder)["annotations"]] == [1, 2, 3, 4, 9, 10, 11]


def test_one_area_for_boxes_of_all_sizes(coco_folder):
    for ann in coco_folder.content["annotations"]:
        ann["area"] = 100.0
    assert _found(coco_folder) == [("constant area", None, None)]
    assert [ann["area"] for ann in _fixed(coco_folder)["annotations"]] == [200, 210, 1600, 900]
    coco_folder.content["annotations"][1]["area"] = 210
    assert _found(coco_folder) == []
    for ann in coco_folder.content["annotations"]:
        ann["bbox"], ann["area"] = [1, 1, 10 + ann["id"] / 100, 10], 100
    assert _found(coco_folder) == []  # boxes of one size may say so


def test_strips_and_very_long_boxes(coco_folder):
    _paint(coco_folder.images / "strip.png", (330, 30))
    _add_image(coco_folder, 50, "strip.png", (330, 30))
    coco_folder.content["annotations"].append(coco_folder.box(8, 50, 5, [0, 3, 63, 3]))
    assert _warned(coco_folder) == [("strip", 50, "strip.png"), ("very long box", 50, "strip.png")]
    assert len(_fixed(coco_folder)["annotations"]) == 5


@pytest.mark.parametrize(
    ("name", "mode", "bits"),
    [
        ("grey.png", "I;16", 16),
        ("grey.tif", "I;16", 16),
        ("float.tif", "F", 32),
        ("int.tif", "I", 32),
        ("grey8.png", "L", None),
        ("palette.png", "P", None),
        ("bits.png", "1", None),
        ("four.webp", "RGBA", None),
    ],
)
def test_bit_depth(coco_folder, name, mode, bits):
    values = np.random.default_rng(0).integers(0, 255, (48, 64))
    kinds = {"I;16": np.uint16, "F": np.float32, "I": np.int32}
    image = Image.fromarray(values.astype(kinds.get(mode, np.uint8)))
    (image if mode in kinds else image.convert(mode)).save(coco_folder.images / name)
    _add_image(coco_folder, 50, name)
    expected = [] if bits is None else [("more than 8 bits", 50, name)]
    assert _warned(coco_folder) == expected
    if bits:
        text = check(coco_folder.json, coco_folder.images).text()
        assert f"image 50 ({name}): {bits} bits a channel" in text and "data.intensity" in text


@pytest.mark.parametrize("name", ["colour.png", "colour.tif", "colour.jp2"])
def test_colour_of_16_bits_is_told_though_pillow_reads_8(coco_folder, name):
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).integers(0, 2**16, (48, 64, 3), dtype=np.uint16)
    assert cv2.imwrite(str(coco_folder.images / name), values)
    _add_image(coco_folder, 50, name)
    try:
        with Image.open(coco_folder.images / name) as image:
            image.load()
    except OSError:
        pytest.skip("this Pillow does not read such files")
    assert _warned(coco_folder) == [("more than 8 bits", 50, name)]


@pytest.mark.parametrize("name", ["blank.png", "blank.jpg"])
def test_pictures_of_one_value(coco_folder, name):
    Image.new("RGB", (64, 48), (9, 200, 30)).save(coco_folder.images / name)
    _add_image(coco_folder, 50, name)
    assert _warned(coco_folder) == [("picture of one value", 50, name)]


def test_notes_of_ignored_and_crowd_boxes(coco_folder):
    for ann in coco_folder.content["annotations"]:
        ann["ignore"] = 1
    notes = check(coco_folder.write(), coco_folder.images).notes
    assert notes[0].startswith("4 boxes say ignore") and notes[0].endswith("(annotations 1, 2, 3, 4)")
    assert "all 4 boxes are crowd regions" in notes[1]


def test_notes_of_a_conversion_are_said(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    _paint(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n" * 3)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cell]\n")
    report = check(*yolo_to_coco(tmp_path, "train"))
    assert report.ok
    assert report.notes == ("identical lines of a label file are one box; left out: 2 (in labels/train/a.txt).",)


def test_without_pictures_the_annotations_are_checked(coco_folder):
    coco_folder.content["annotations"].append(coco_folder.box(9, 10, 5, [60, 4, 20, 10]))
    coco_folder.content["images"][1]["width"] = -1
    shutil.rmtree(coco_folder.images)
    report = check(coco_folder.write(), None)
    assert report.counts() == {"no size": 1, "box outside image": 1}
    assert "pictures were not opened: give --images" in report.text()


@pytest.fixture
def splits(coco_folder, tmp_path):
    """A training split, and another of other pictures and the same classes."""
    other = type(coco_folder)(tmp_path / "val")
    for number, image in enumerate(other.content["images"]):
        _paint(other.images / image["file_name"], (image["width"], image["height"]), seed=100 + number)
    coco_folder.write()
    other.write()
    return coco_folder, other


def _check(splits):
    return check_splits([Split(name, one.write(), one.images) for name, one in zip(("train", "val"), splits)])


def test_splits_that_share_nothing_are_fine(splits):
    report = _check(splits)
    assert report.ok and not report.warnings
    assert report.text().count("no problems") == 2


@pytest.mark.parametrize("how", ["copied", "saved again"])
def test_a_picture_in_two_splits(splits, how):
    train, val = splits
    if how == "copied":
        shutil.copy(train.images / "a.jpg", val.images / "a.jpg")
        twin, name = (10, "a.jpg"), "a.jpg"
    else:
        with Image.open(train.images / "b.png") as image:
            image.save(val.images / "b.png", compress_level=1)
        twin, name = (7, "b.png"), "b.png"
    report = _check(splits)
    assert not report.ok
    (problem,) = report.problems
    assert (problem.kind, problem.image_id, problem.file_name, problem.split) == (
        "same picture in two splits",
        *twin,
        "val",
    )
    assert f"image {twin[0]} ({name}) in train" in report.text()
    assert "take the picture out of one split" in report.text()


def test_classes_of_one_split_alone(splits):
    train, val = splits
    val.content["annotations"] = val.content["annotations"][:2]
    train.content["annotations"] = train.content["annotations"][1:]
    report = _check(splits)
    assert report.ok
    assert [one.message for one in report.warnings] == [
        "'dog': 1 boxes in val, none in train: it is never learned",
        "'cow': 1 boxes in train, none in val: its AP there is NaN",
    ]


def test_classes_of_very_different_shares(splits):
    rng = random.Random(0)
    for split, share in zip(splits, (0.8, 0.1)):
        split.content["annotations"] = [
            split.box(number, 10, 5 if rng.random() < share else 2, [rng.randrange(40), rng.randrange(30), 9 + k, 8])
            for number, k in enumerate(np.linspace(0, 9, 200).tolist(), start=1)
        ]
    warnings = [one for one in _check(splits).warnings if one.kind == "class of very different shares"]
    assert [one.message.split(":")[0] for one in warnings] == ["'cat'", "'dog'"]  # by their number
    for split in splits:  # so few that it may be chance
        split.content["annotations"] = split.content["annotations"][:4]
    assert not [one for one in _check(splits).warnings if "different" in one.kind]


def test_names_of_splits():
    names = lambda *files: [one.name for one in splits_of(files, [None] * len(files))]  # noqa: E731
    assert names("a/train.json", "a/val.json") == ["train", "val"]
    assert names("a/train/_annotations.coco.json", "a/valid/_annotations.coco.json") == ["train", "valid"]
    assert names("a/x.json", "a/x.json") == ["a/x.json (1)", "a/x.json (2)"]


def test_one_file_is_repaired_at_a_time(splits, tmp_path):
    several = [Split(name, one.write(), one.images) for name, one in zip(("train", "val"), splits)]
    with pytest.raises(UserError, match="one file is repaired at a time"):
        check_splits(several, repaired=tmp_path / "out.json")


def test_what_numpy_passes_the_walk_passes_too(coco_folder):
    """Odd entries in front send the others through the walk; both ways say the same of them."""
    rng = random.Random(1)
    boxes = [[rng.uniform(-1, 66), rng.uniform(-1, 50), rng.uniform(0, 20), rng.uniform(0, 20)] for _ in range(400)]
    boxes += [[0, 0, 64, 48], [0, 0, 64.5, 48], [0, 0, 64.51, 48], [63.2, 2, 0.8, 5], [63, 2, 1.4, 5], [-0.5, 1, 2, 2]]
    coco_folder.content["annotations"] = [
        coco_folder.box(number, 10, 5, box) for number, box in enumerate(boxes, start=1)
    ]
    fast = check(coco_folder.write(), coco_folder.images)
    for ann in coco_folder.content["annotations"]:
        ann["category_id"] = "5"
    slow = check(coco_folder.write(), coco_folder.images)
    assert fast.problems and fast.problems == [one for one in slow.problems if one.kind != "odd value"]


def test_one_sentence_about_many_images_is_shown_three_times():
    alike = [Problem("strip", "cut it", image) for image in range(9)]
    assert list(listed(alike, 20))[-2:] == ["    image 2: cut it", "    … and 6 more"]
    assert list(listed(alike, 1))[-2:] == ["    image 0: cut it", "    … and 8 more"]
    assert len(list(listed([*alike, Problem("strip", "another", 9)], 20))) == 11
