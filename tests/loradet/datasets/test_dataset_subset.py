import json
import random

import pytest

from loradet.datasets import make_subset


@pytest.fixture
def many(coco_folder):
    """40 images, every fourth without boxes, one of these with a crowd alone."""
    content = coco_folder.content
    content["images"] = [
        {"id": number, "file_name": f"{number}.png", "width": 50, "height": 50} for number in range(1, 41)
    ]
    content["annotations"] = [
        coco_folder.box(2 * number + twice, number, 5, [1, 1, 9, 9])
        for number in range(1, 41)
        if number % 4
        for twice in range(2)
    ]
    content["annotations"].append(coco_folder.box(1000, 4, 5, [1, 1, 9, 9], iscrowd=1))
    coco_folder.write()
    return coco_folder


def _chosen(folder, count, **options) -> list[int]:
    output = folder.root / "subset.json"
    written = make_subset(folder.json, output, count, **options)
    assert json.loads(output.read_text()) == written
    return [image["id"] for image in written["images"]]


def test_n_images_with_all_their_annotations(many):
    written = make_subset(many.json, many.root / "subset.json", 10)
    ids = [image["id"] for image in written["images"]]
    assert len(set(ids)) == 10
    assert ids == sorted(ids)
    assert all(number % 4 for number in ids)
    assert sorted(ann["image_id"] for ann in written["annotations"]) == sorted(ids * 2)
    assert written["categories"] == many.content["categories"]


def test_the_choice_depends_on_the_seed_and_not_on_the_order(many):
    first = _chosen(many, 10, seed=3)
    random.Random(0).shuffle(many.content["images"])
    random.Random(1).shuffle(many.content["annotations"])
    many.write()
    assert _chosen(many, 10, seed=3) == first
    assert _chosen(many, 10, seed=4) != first
    assert set(first) < set(_chosen(many, 20, seed=3))


def test_empty_images_only_when_asked(many):
    assert len(_chosen(many, 30)) == 30
    assert len(_chosen(many, 40, include_empty=True)) == 40
    with pytest.raises(ValueError, match="30"):
        _chosen(many, 31)
    with pytest.raises(ValueError, match="40"):
        _chosen(many, 41, include_empty=True)
    with pytest.raises(ValueError, match="count=0"):
        _chosen(many, 0)


def test_the_input_stays(many):
    before = many.json.read_bytes()
    with pytest.raises(ValueError, match="input itself"):
        make_subset(many.json, many.json, 3)
    assert many.json.read_bytes() == before


def test_repeated_image_ids_are_refused(many):
    many.content["images"][1]["id"] = 1
    many.write()
    with pytest.raises(ValueError, match="repeated"):
        _chosen(many, 3)
