import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.datasets import check, coco_dataset, synthetic, yolo_to_coco


def _rng(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def _many(count: int, size: int | tuple[int, int] = 128, max_objects: int = 3) -> list:
    return [synthetic.scene("shapes", size, _rng(1, index), max_objects=max_objects) for index in range(count)]


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _extents(mask: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) XYXY of the 8-connected parts of a mask."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return np.array([[x, y, x + w, y + h] for x, y, w, h, _ in stats[1:]], float).reshape(-1, 4)


def _assert_same_boxes(found: np.ndarray, boxes: np.ndarray, atol: float) -> None:
    """In any order, one to one."""
    assert len(found) == len(boxes)
    if len(boxes):
        off = np.abs(found[:, None] - boxes[None]).max(axis=2)
        assert sorted(off.argmin(axis=1)) == list(range(len(boxes)))
        assert off.min(axis=1).max() <= atol


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(32, 300), st.integers(32, 300)),
    seed=st.integers(0, 2**32),
    max_objects=st.integers(1, 12),
)
def test_scene_is_well_formed_at_any_size(size, seed, max_objects):
    image, boxes, classes = synthetic.scene("shapes", size, _rng(seed), max_objects=max_objects)
    assert image.shape == (*size, 3)
    assert image.dtype == np.uint8
    assert boxes.shape == (len(classes), 4)
    assert len(classes) <= max_objects
    assert set(classes.tolist()) <= set(range(10))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size[::-1]).all()
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) if len(boxes) else np.array([10.0])
    assert sides.min() >= 9.98
    assert sides.max() <= max(0.5 * min(size), 10) + 0.02
    again = synthetic.scene("shapes", size, _rng(seed), max_objects=max_objects)
    assert all(np.array_equal(one, two) for one, two in zip((image, boxes, classes), again))


def test_every_class_and_number_of_objects_occurs_alike_often():
    scenes = _many(600, size=64)
    labels = np.concatenate([classes for _, _, classes in scenes])
    shares = np.bincount(labels, minlength=10) / len(labels)
    assert len(synthetic.SHAPE_CLASSES) == len(set(synthetic.SHAPE_CLASSES)) == 10
    assert 0.07 < shares.min() <= shares.max() < 0.13
    numbers = np.bincount([len(classes) for _, _, classes in scenes], minlength=4) / len(scenes)
    assert len(numbers) == 4
    assert 0.02 < numbers[0] < 0.07
    assert (numbers[1:] > 0.25).all()


def test_sizes_are_a_fair_share_of_the_image():
    for side, max_objects in ((128, 3), (512, 3)):
        boxes = np.concatenate([boxes for _, boxes, _ in _many(40, side, max_objects)])
        longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) / side
        assert 0.249 < longest.min() < 0.3
        assert 0.45 < longest.max() < 0.501


@pytest.mark.parametrize("max_objects", [3, 20])
def test_boxes_overlap_little(max_objects):
    highest = 0.0
    for _, boxes, _ in _many(80, 96, max_objects):
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=2) * (1 - np.eye(len(boxes)))
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        iou = common / (areas[:, None] + areas[None] - common)
        highest = max(highest, iou.max(initial=0.0))
    assert 0 < highest < 0.065


def test_boxes_are_tight_around_every_pixel_drawn(monkeypatch):
    """Shapes alone, white on black: each is one part of the mask, its extent is the box."""
    from loradet.datasets.synthetic import geometric

    monkeypatch.setattr(geometric, "_paint_background", lambda *_: np.zeros(3))
    monkeypatch.setattr(geometric, "_paint_shape", lambda canvas, outline, *_: canvas.fill(outline, np.ones(3)))
    monkeypatch.setattr(geometric, "_finish", lambda canvas, _rng: canvas.image[..., 0] > 0)
    for index in range(120):
        max_objects, size = (3, (128, 128)) if index % 2 else (12, (96, 200))
        mask, boxes, _ = synthetic.scene("shapes", size, _rng(2, index), max_objects=max_objects)
        found = _extents(mask)
        _assert_same_boxes(found, boxes, atol=1.25)


def test_shapes_stand_out_in_the_picture_itself():
    """Pixels that differ clearly from what lies outside all boxes are the objects, and nothing else is."""
    for image, boxes, _ in _many(60):
        colours = image / 255
        outside = np.ones(image.shape[:2], bool)
        for x0, y0, x1, y1 in boxes:
            outside[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = False
        distance = np.linalg.norm(colours - np.median(colours[outside], axis=0), axis=-1)
        found = _extents(distance > 0.27)
        _assert_same_boxes(found, boxes, atol=2.5)


def test_the_shape_tells_the_class_and_the_colour_does_not():
    """Nearest mean mask, learnt from 300 scenes, names the shapes of the others; nearest mean colour guesses."""
    masks: list[list] = [[] for _ in range(10)]
    tests, colours, labels = [], [], []
    for index, (image, boxes, classes) in enumerate(_many(500, 96, 2)):
        for (x0, y0, x1, y1), label in zip(boxes.round().astype(int), classes):
            crop = image[y0:y1, x0:x1] / 255
            background = np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]), axis=0) / 255
            mask = (np.linalg.norm(crop - background, axis=-1) > 0.27).astype(np.float32)
            # Keep the aspect: a bar is a square otherwise.
            side = max(mask.shape)
            square = np.zeros((side, side), np.float32)
            top, left = (side - mask.shape[0]) // 2, (side - mask.shape[1]) // 2
            square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
            vector = cv2.resize(square, (24, 24), interpolation=cv2.INTER_AREA).ravel()
            if index < 300:
                masks[label].append((vector, crop[mask > 0].mean(0)))
            else:
                tests.append(vector)
                colours.append(crop[mask > 0].mean(0))
                labels.append(label)
    by_shape = np.array([np.mean([vector for vector, _ in of], axis=0) for of in masks])
    by_colour = np.array([np.mean([colour for _, colour in of], axis=0) for of in masks])
    named = [((by_shape - vector) ** 2).sum(1).argmin() for vector in tests]
    guessed = [((by_colour - colour) ** 2).sum(1).argmin() for colour in colours]
    assert np.mean(np.array(named) == labels) > 0.9
    assert np.mean(np.array(guessed) == labels) < 0.2


@pytest.mark.parametrize("style", ["sar", "optical", "shapes"])
def test_max_objects_holds_for_every_style(style):
    counts = [len(synthetic.scene(style, 128, _rng(4, n), max_objects=2)[2]) for n in range(40)]
    assert max(counts) == 2


@pytest.mark.parametrize(
    ("style", "layout", "suffix"), [("shapes", None, "jpg"), ("shapes", "coco2017", "jpg"), ("sar", "coco2017", "png")]
)
def test_coco2017_layout(tmp_path, style, layout, suffix):
    root = synthetic.generate(
        tmp_path / "set", style=style, size=(48, 64), counts={"train": 4, "val": 2}, layout=layout
    )
    expected = {f"train2017/{n:012d}.{suffix}" for n in range(1, 5)} | {f"val2017/{n:012d}.{suffix}" for n in (1, 2)}
    expected |= {f"annotations/instances_{split}2017.json" for split in ("train", "val")} | {"synthetic.json"}
    assert set(_files(root)) == expected
    for split, count in (("train", 4), ("val", 2)):
        json_file = root / "annotations" / f"instances_{split}2017.json"
        assert check(json_file, root / f"{split}2017").ok
        content = json.loads(json_file.read_text())
        assert content["info"]["synthetic"] is True
        assert [int(Path(image["file_name"]).stem) for image in content["images"]] == list(range(1, count + 1))
        assert [image["id"] for image in content["images"]] == list(range(1, count + 1))
        names = dict(enumerate(synthetic.STYLE_CLASSES[style], start=1))
        assert {category["id"]: category["name"] for category in content["categories"]} == names


def test_sardet_layout_holds_the_same_images(tmp_path):
    options = {"style": "shapes", "size": 48, "counts": {"train": 3}}
    coco = synthetic.generate(tmp_path / "coco", **options)
    sardet = synthetic.generate(tmp_path / "sardet", **options, layout="sardet")
    assert set(_files(sardet)) == {f"JPEGImages/train/{n:06d}.jpg" for n in range(3)} | {
        "Annotations/train.json",
        "synthetic.json",
    }
    for index in range(3):
        one, two = coco / f"train2017/{index + 1:012d}.jpg", sardet / f"JPEGImages/train/{index:06d}.jpg"
        assert one.read_bytes() == two.read_bytes()
    found = [
        json.loads(path.read_text())["annotations"]
        for path in (coco / "annotations/instances_train2017.json", sardet / "Annotations/train.json")
    ]
    assert found[0] == found[1]


def test_default_counts_are_those_of_the_layout():
    assert synthetic.default_counts("sardet") == {"train": 600, "val": 100, "test": 100}
    assert synthetic.default_counts("coco2017") == {"train": 600, "val": 100}
    assert [synthetic.default_layout(style) for style in ("sar", "optical", "shapes")] == ["sardet"] * 2 + ["coco2017"]


def test_the_set_loads_as_a_data_set(tmp_path):
    root = synthetic.generate(tmp_path / "set", style="shapes", size=64, counts={"val": 6}, max_objects=3)
    try:
        records = coco_dataset(
            json_file=root / "annotations/instances_val2017.json",
            image_root=root / "val2017",
            classes=list(synthetic.SHAPE_CLASSES),
            name="shapes_val",
        )
        assert len(records) == 6
        for record in records:
            image = cv2.imread(record["file_name"], cv2.IMREAD_COLOR)
            assert image.shape == (64, 64, 3)
            assert len(record["annotations"]) <= 3
        labels = {annotation["category_id"] for record in records for annotation in record["annotations"]}
        assert labels <= set(range(10))
    finally:
        DatasetCatalog.pop("shapes_val", None)
        MetadataCatalog.pop("shapes_val", None)


def test_image_i_does_not_depend_on_counts_or_workers(tmp_path):
    options = {"style": "shapes", "size": 40, "max_objects": 3, "seed": 1}
    short = _files(synthetic.generate(tmp_path / "short", counts={"train": 3, "val": 2}, **options))
    long = _files(synthetic.generate(tmp_path / "long", counts={"val": 2, "train": 40}, workers=2, **options))
    other = _files(synthetic.generate(tmp_path / "other", counts={"train": 3, "val": 2}, **{**options, "seed": 2}))
    images = [name for name in short if name.endswith(".jpg")]
    assert len(images) == 5
    for name in images:
        assert short[name] == long[name]
        assert short[name] != other[name]
    assert short["train2017/000000000001.jpg"] != short["val2017/000000000001.jpg"]
    grown = _files(synthetic.generate(tmp_path / "short", counts={"val": 2, "train": 40}, **options))
    assert grown == long


def test_a_set_from_before_there_were_layouts_still_counts_as_finished(tmp_path):
    """The manifest as it was written then, word by word; nothing may be painted again."""
    root = synthetic.generate(tmp_path / "set", size=48, counts={"train": 2, "val": 1})
    manifest = {
        "generator": "loradet.datasets.synthetic",
        "version": 1,
        "style": "sar",
        "size": [48, 48],
        "seed": 0,
        "counts": {"train": 2, "val": 1},
        "complete": True,
    }
    assert json.loads((root / "synthetic.json").read_text()) == manifest
    marked = root / "JPEGImages" / "train" / "000001.png"
    marked.write_bytes(b"as it was")
    synthetic.generate(root, size=48, counts={"train": 2, "val": 1}, layout="sardet", max_objects=8)
    assert marked.read_bytes() == b"as it was"


def test_the_manifest_names_what_is_not_as_usual(tmp_path):
    options = {"style": "shapes", "size": 40, "counts": {"val": 1}}
    usual = synthetic.generate(tmp_path / "usual", **options)
    assert {"layout", "max_objects"}.isdisjoint(json.loads((usual / "synthetic.json").read_text()))
    other = synthetic.generate(tmp_path / "other", **options, layout="sardet", max_objects=2)
    manifest = json.loads((other / "synthetic.json").read_text())
    assert (manifest["layout"], manifest["max_objects"]) == ("sardet", 2)
    files = _files(other)
    synthetic.generate(other, **options, layout="sardet", max_objects=2)
    assert _files(other) == files


@pytest.mark.parametrize("change", [{"layout": "sardet"}, {"max_objects": 3}, {"max_objects": 8}], ids=str)
def test_a_set_of_other_parameters_is_not_overwritten(tmp_path, change):
    options = {"style": "shapes", "size": 40, "counts": {"val": 1}, "max_objects": 5}
    root = synthetic.generate(tmp_path / "set", **options)
    files = _files(root)
    with pytest.raises(FileExistsError, match=rf"{next(iter(change))}.*asked for is .*{next(iter(change.values()))}"):
        synthetic.generate(root, **{**options, **change})
    assert _files(root) == files


@pytest.mark.parametrize("options", [{"layout": "voc"}, {"max_objects": 0}, {"max_objects": 101}], ids=str)
def test_bad_parameters_are_errors_before_anything_is_written(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*expected"):
        synthetic.generate(tmp_path / "set", counts={"train": 1}, **options)
    assert not (tmp_path / "set").exists()


def test_the_tool_writes_shapes(tmp_path):
    def run(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "tools" / "datasets.py"), "synthetic", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    options = ("--style", "shapes", "--size", 48, "--max-objects", 3, "--train", 4, "--val", 2)
    result = run(tmp_path / "set", *options)
    assert result.returncode == 0, result.stderr
    assert "annotations/instances_{train,val}2017.json and {train,val}2017/" in result.stdout
    made = {"style": "shapes", "size": 48, "counts": {"train": 4, "val": 2}, "max_objects": 3}
    assert _files(tmp_path / "set") == _files(synthetic.generate(tmp_path / "same", **made))
    result = run(tmp_path / "set", *options, "--layout", "sardet")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_yolo_layout_holds_the_same_boxes(tmp_path):
    shape = dict(style="shapes", size=(96, 128), counts={"train": 4, "val": 2}, max_objects=5)
    coco, yolo = (synthetic.generate(tmp_path / layout, layout=layout, **shape) for layout in ("coco2017", "yolo"))
    assert synthetic.generate(yolo, layout="yolo", **shape) == yolo
    for split in ("train", "val"):
        expected = json.loads((coco / f"annotations/instances_{split}2017.json").read_text())
        converted, images = yolo_to_coco(yolo, split)
        found = json.loads(converted.read_text())
        assert found["info"]["synthetic"] is True
        assert [c["name"] for c in found["categories"]] == [c["name"] for c in expected["categories"]]
        assert [(i["width"], i["height"]) for i in found["images"]] == [(128, 96)] * len(expected["images"])
        assert all((images / image["file_name"]).is_file() for image in found["images"])
        for ours, theirs in zip(found["annotations"], expected["annotations"], strict=True):
            assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
            assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.02)
