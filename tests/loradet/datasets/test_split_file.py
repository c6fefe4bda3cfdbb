"""One COCO file to train, val and test: nothing lost, classes in their shares, groups together."""

import json
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradet.datasets import split_coco
from loradet.errors import UserError


def write(file: Path, classes: list[list[int]], **keys: list) -> Path:
    """A file of images that show these classes, a box each; `keys` are further keys of the image entries."""
    images = [{"id": i, "file_name": f"s{i // 4}_{i}.jpg", "width": 9, "height": 9} for i in range(1, len(classes) + 1)]
    for key, values in keys.items():
        for image, value in zip(images, values):
            image[key] = value
    boxes = [(i, name) for i, shown in enumerate(classes, start=1) for name in shown]
    annotations = [
        {"id": n, "image_id": i, "category_id": name, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "note": n}
        for n, (i, name) in enumerate(boxes, start=1)
    ]
    categories = [{"id": name, "name": f"class{name}"} for name in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories, "licenses": [{"id": 4}]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def read(files: dict[str, Path]) -> dict[str, dict]:
    return {split: json.loads(file.read_text()) for split, file in files.items()}


def images_of(part: dict) -> set[int]:
    return {image["id"] for image in part["images"]}


def images_with(part: dict) -> Counter:
    return Counter(name for _, name in {(one["image_id"], one["category_id"]) for one in part["annotations"]})


@settings(deadline=None, max_examples=40)
@given(
    classes=st.lists(st.lists(st.integers(1, 3), max_size=4), min_size=10, max_size=80),
    val=st.sampled_from([0.1, 0.2, 0.5]),
    test=st.sampled_from([0.0, 0.1, 0.3]),
    seed=st.integers(0, 5),
)
def test_every_image_and_box_is_in_one_part(classes, val, test, seed):
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "all.json", classes)
        whole = json.loads(source.read_text())
        parts = read(split_coco(source, Path(folder) / "out", val=val, test=test, seed=seed))
    assert list(parts) == ["train", "val", *(["test"] if test else [])]
    for key in ("images", "annotations"):
        found = [entry for part in parts.values() for entry in part[key]]
        assert sorted(found, key=lambda entry: entry["id"]) == whole[key]
    for part in parts.values():
        assert part["images"]
        assert {one["image_id"] for one in part["annotations"]} <= images_of(part)
        assert (part["categories"], part["licenses"]) == (whole["categories"], whole["licenses"])


def test_every_class_has_its_share(tmp_path):
    """60 images of class 1, 30 of class 2 among them, 10 of class 3 apart, 20 empty."""
    classes = [[1, 2] if i < 30 else [1] if i < 60 else [3] if i < 70 else [] for i in range(90)]
    random.Random(0).shuffle(classes)
    parts = read(split_coco(write(tmp_path / "all.json", classes), tmp_path / "out", val=0.2, test=0.1))
    assert [len(part["images"]) for part in parts.values()] == [63, 18, 9]
    assert [dict(images_with(part)) for part in parts.values()] == [
        {1: 42, 2: 21, 3: 7},
        {1: 12, 2: 6, 3: 2},
        {1: 6, 2: 3, 3: 1},
    ]


def test_the_seed_decides_and_the_order_of_the_file_does_not(tmp_path):
    classes = [[1 + i % 3] for i in range(30)]
    source = write(tmp_path / "all.json", classes)
    content = json.loads(source.read_text())
    random.Random(1).shuffle(content["images"])
    (tmp_path / "shuffled.json").write_text(json.dumps(content))
    first, again, other = (
        images_of(read(split_coco(tmp_path / name, tmp_path / f"{name}{seed}", seed=seed))["val"])
        for name, seed in (("all.json", 0), ("shuffled.json", 0), ("all.json", 1))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("group_by", ["scene", r"re:^s(\d+)_", r"re:s\d+_"])
def test_a_group_stays_together(tmp_path, group_by):
    scenes = [f"scene {i // 4}" for i in range(1, 61)]
    source = write(tmp_path / "all.json", [[1 + i % 3] for i in range(60)], scene=scenes)
    parts = read(split_coco(source, tmp_path / "out", val=0.25, group_by=group_by))
    held = [{image["scene"] for image in part["images"]} for part in parts.values()]
    assert not held[0] & held[1]
    assert len(parts["val"]["images"]) == pytest.approx(15, abs=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(val=1.0), "val=1.0: expected a share"),
        (dict(val=0.6, test=0.4), "leave nothing to train on"),
        (dict(val=0.0), "nothing to split off"),
        (dict(group_by="place"), r"'place' is no key of 6 of 6 images .* keys there: id, file_name, width, height"),
        (dict(group_by="re:^x"), r"'re:\^x' does not match 6 of 6 images \(s0_1\.jpg"),
        (dict(group_by="re:("), "is no regular expression"),
        (dict(group_by="width"), r"1 groups of images \(--group-by width\) cannot make 2 splits"),
    ],
)
def test_what_cannot_be_split_is_said(tmp_path, arguments, message):
    source = write(tmp_path / "all.json", [[1]] * 6)
    with pytest.raises(UserError, match=message):
        split_coco(source, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path):
    source = write(tmp_path / "train.json", [[1]] * 6)
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"train\.json: there already"):
        split_coco(source, tmp_path)
    assert source.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["train.json"]
