"""Roboflow's COCO exports: three folders with the annotations beside the images, and a heading that is no class."""

import json
import logging
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from PIL import Image

from loradet.config import load_config
from loradet.datasets import check, coco_dataset, summarize, synthetic
from loradet.datasets.classes import count_classes

CONFIG = "configs/vim_ofat/base.py"
FOLDERS = {"train": "train", "val": "valid", "test": "test"}
_numbers = count()


def export(root: Path, names=("head", "helmet"), heading="heads", boxes=None) -> Path:
    """An export of 3 / 2 / 1 images; image i of a split has the boxes `boxes(i)`: category id and XYWH each."""
    boxes = boxes or (lambda i: [(1 + (i + k) % len(names), [4 + k, 6, 20, 12]) for k in range(2)])
    categories = [{"id": 0, "name": heading, "supercategory": "none"}]
    categories += [{"id": i, "name": name, "supercategory": heading} for i, name in enumerate(names, 1)]
    noise = np.random.default_rng(0)
    for folder, images in zip(FOLDERS.values(), (3, 2, 1)):
        (root / folder).mkdir(parents=True)
        content = {"info": {"version": "3"}, "licenses": [], "categories": categories, "images": [], "annotations": []}
        for i in range(images):
            name = f"scene{i}_jpg.rf.{i:032x}.jpg"
            Image.fromarray(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / folder / name)
            content["images"].append({"id": i, "license": 1, "file_name": name, "height": 48, "width": 64})
            for category, (x, y, width, height) in boxes(i):
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": i,
                        "category_id": category,
                        "bbox": [x, y, width, height],
                        "area": width * height,
                        "segmentation": [],
                        "iscrowd": 0,
                    }
                )
        (root / folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def loaded(root: Path, split: str, *overrides: str):
    """Records and metadata of a split, as the config reads it; all classes, unless `overrides` say which."""
    name = f"roboflow_{next(_numbers)}"
    overrides = overrides or ("data.classes=null",)
    cfg = load_config(CONFIG, [f"data.root={root}", f"data.name={name}", *overrides])
    return instantiate(cfg.dataloader[split].dataset), MetadataCatalog.get(f"{name}_{split}")


def evaluated(metadata) -> dict:
    """The file that detections are evaluated against."""
    return json.loads(Path(metadata.json_file).read_text())


def content_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_one_line_gives_all_splits(tmp_path):
    root = export(tmp_path / "my export")
    before = content_of(root)
    for split, images in (("train", 3), ("val", 2), ("test", 1)):
        records, metadata = loaded(root, split)
        assert len(records) == images
        assert metadata.thing_classes == ["head", "helmet"]
        assert {ann["category_id"] for record in records for ann in record["annotations"]} == {0, 1}
        assert all(Path(record["file_name"]).parent == root / FOLDERS[split] for record in records)
        assert [category["name"] for category in evaluated(metadata)["categories"]] == ["head", "helmet"]
        assert len(evaluated(metadata)["annotations"]) == 2 * images
    assert content_of(root) == before  # nothing is written beside the user's data


def test_the_heading_may_have_the_name_of_a_class(tmp_path, caplog):
    root = export(tmp_path, names=("head",), heading="head")
    with caplog.at_level(logging.INFO, logger="loradet"):
        records, metadata = loaded(root, "val")
    assert "left out category 'head' (id 0), a heading" in caplog.text
    assert metadata.thing_classes == ["head"]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0}
    assert [category["id"] for category in evaluated(metadata)["categories"]] == [1]
    assert len(records[0]["annotations"]) == 2
    _, metadata = loaded(root, "val", "data.classes=[head]")
    assert metadata.thing_classes == ["head"]


@pytest.mark.parametrize(("classes", "kept"), [("[head]", 3), ("[helmet]", 3), ("[helmet,head]", 6)])
def test_classes_are_chosen_by_name(tmp_path, classes, kept):
    names = classes.strip("[]").split(",")
    records, metadata = loaded(export(tmp_path), "train", f"data.classes={classes}")
    assert metadata.thing_classes == names
    assert sum(len(record["annotations"]) for record in records) == kept
    assert len(evaluated(metadata)["annotations"]) == kept


def test_a_filter_that_matches_nothing_lists_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"none of the classes \['person'\]; it has \['head', 'helmet'\]"):
        loaded(export(tmp_path), "train", "data.classes=[person]")


def test_a_heading_that_is_annotated_is_a_class(tmp_path):
    root = export(tmp_path, boxes=lambda i: [(i % 3, [4, 6, 20, 12])])
    assert count_classes(root / "train" / "_annotations.coco.json") == 3
    assert loaded(root, "train")[1].thing_classes == ["heads", "head", "helmet"]


@pytest.mark.parametrize(
    ("categories", "kept"),
    [
        ([("vehicle", "none"), ("car", "vehicle"), ("dog", "animal")], 3),  # not above all others
        ([("car", "vehicle"), ("bus", "vehicle")], 2),
        ([("car", "car")], 1),
        ([("person", "person"), ("rider", "person")], 2),
        ([("car", "things"), ("bus", "things"), ("things", "none")], 2),
    ],
)
def test_only_a_heading_above_all_others_is_left_out(tmp_path, categories, kept):
    path = tmp_path / "a.json"
    entries = [{"id": i, "name": name, "supercategory": above} for i, (name, above) in enumerate(categories)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": entries}))
    assert count_classes(path) == kept
    assert count_classes(path, ["bus"]) == 1


def test_splits_that_lack_images_or_annotations_are_named(tmp_path):
    root = export(tmp_path)
    empty = root / "valid" / "_annotations.coco.json"
    content = json.loads(empty.read_text())
    empty.write_text(json.dumps({**content, "images": [], "annotations": []}))
    with pytest.raises(ValueError, match=r"valid/_annotations\.coco\.json lists no images"):
        loaded(root, "val")
    for image in (root / "train").glob("*.jpg"):
        image.unlink()
    with pytest.raises(FileNotFoundError, match=r"None of the first images of .*train/_annotations\.coco\.json is in"):
        loaded(root, "train")
    (root / "test" / "_annotations.coco.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"test/_annotations\.coco\.json: there is no such file"):
        loaded(root, "test")


def test_synthetic_scenes_in_the_same_layout(tmp_path):
    counts = {"train": 3, "val": 2, "test": 1}
    root = synthetic.generate(tmp_path / "set", style="shapes", size=48, counts=counts, layout="roboflow")
    for split, folder in FOLDERS.items():
        assert len(list((root / folder).glob("*.jpg"))) == counts[split]
        records, metadata = loaded(root, split)
        assert len(records) == counts[split]
        assert metadata.synthetic
        assert metadata.thing_classes == list(synthetic.STYLE_CLASSES["shapes"])
    # The same scenes as in any other layout, and an unfinished set is made whole.
    other = synthetic.generate(tmp_path / "other", style="shapes", size=48, counts=counts)
    first = sorted((root / "valid").glob("*.jpg"))[0]
    assert first.read_bytes() == sorted((other / "val2017").glob("*.jpg"))[0].read_bytes()
    before = content_of(root)
    first.unlink()
    synthetic.generate(root, style="shapes", size=48, counts=counts, layout="roboflow")
    assert content_of(root) == before
    assert synthetic.LAYOUTS["roboflow"].describe(["train", "val"]) == (
        "{train,valid}/_annotations.coco.json and {train,valid}/"
    )


def test_a_split_without_the_training_classes_keeps_their_places(tmp_path):
    """The training file says which classes there are, also where another split's export lists them otherwise."""
    root = export(tmp_path, names=("head", "helmet"))
    path = root / "valid" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content["categories"] = [content["categories"][2]]
    content["annotations"] = [ann for ann in content["annotations"] if ann["category_id"] == 2]
    path.write_text(json.dumps(content))
    records, metadata = loaded(root, "val")
    assert metadata.thing_classes == ["head", "helmet"]
    assert {ann["category_id"] for record in records for ann in record["annotations"]} == {1}


def test_coco_dataset_alone(tmp_path):
    root = export(tmp_path)
    records = coco_dataset(root / "train" / "_annotations.coco.json", root / "train", name=f"alone_{next(_numbers)}")
    assert {ann["category_id"] for record in records for ann in record["annotations"]} == {0, 1}


def test_the_heading_is_no_fault_and_no_class_of_a_summary(tmp_path):
    root = export(tmp_path, heading="head")
    file = root / "train" / "_annotations.coco.json"
    assert not check(file, root / "train").problems
    rows = [line.split() for line in summarize(file).splitlines()]
    assert sum(row[:2] in (["0", "head"], ["head"]) for row in rows) == 0
