"""Pascal VOC data: lists or folders, boxes as COCO's, `difficult` as ignored, faults by file and element."""

import json
from pathlib import Path

import pytest
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from PIL import Image

from loradet.config import load_config
from loradet.datasets import voc_class_names, voc_dataset, voc_to_coco
from loradet.errors import MissingFileError, UserError

SHIP = ("ship", 11, 6, 30, 20)
CAR = ("car", 1, 1, 80, 40)


def annotation(*objects, difficult=(), extra="") -> str:
    """An annotation of objects (name and corners), of which those at `difficult` are so."""
    text = "".join(
        f"<object><name>{name}</name><difficult>{int(i in difficult)}</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        f"<part><name>bow</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for i, (name, x0, y0, x1, y1) in enumerate(objects)
    )
    return f"<annotation><filename>other.jpg</filename>{text}{extra}</annotation>"


def add(root: Path, stem: str, xml: str | None, *, images="JPEGImages", annotations="Annotations", suffix=".jpg"):
    for folder in (images, annotations):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 40)).save(root / images / f"{stem}{suffix}")
    if xml is not None:
        (root / annotations / f"{stem}.xml").write_text(xml)


def write_list(root: Path, split: str, text: str) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)


@pytest.fixture
def devkit(tmp_path) -> Path:
    root = tmp_path / "VOC2007"
    add(root, "a", annotation(SHIP, CAR, difficult=[1]))
    add(root, "my image", annotation(CAR), suffix=".PNG")
    add(root, "c", annotation(("tank", 2, 2, 9, 9)))
    write_list(root, "train", "a\nmy image\n")
    write_list(root, "val", "c  1\na -1\n\n")
    return root


def read(root: Path, split: str) -> dict:
    return json.loads(voc_to_coco(root, split)[0].read_text())


def test_corners_become_boxes_from_zero(devkit):
    content = read(devkit, "train")
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "my image.PNG"]
    assert [ann["bbox"] for ann in content["annotations"]] == [[10, 5, 20, 15], [0, 0, 80, 40], [0, 0, 80, 40]]
    assert [category["name"] for category in content["categories"]] == ["car", "ship"]
    assert [ann["category_id"] for ann in content["annotations"]] == [2, 1, 1]
    assert not list(devkit.rglob("*.json"))


def test_difficult_is_neither_trained_on_nor_to_be_found(devkit):
    records = voc_dataset(devkit, "train", name="voc_difficult")
    assert [[ann["iscrowd"] for ann in record["annotations"]] for record in records] == [[0, 1], [0]]
    truth = json.loads(Path(MetadataCatalog.get("voc_difficult").json_file).read_text())
    assert [ann["iscrowd"] for ann in truth["annotations"]] == [0, 1, 0]


def test_classes_are_those_of_the_training_split(devkit):
    assert voc_class_names(devkit) == ["car", "ship"]
    records = voc_dataset(devkit, "val", name="voc_classes")
    assert MetadataCatalog.get("voc_classes").thing_classes == ["car", "ship"]
    # The tank of c is of no class; a list of one class has flags behind its names.
    assert [[ann["category_id"] for ann in record["annotations"]] for record in records] == [[], [1, 0]]


def test_folders_are_splits_too(tmp_path):
    for folder, stem in (("train", "a"), ("valid", "b")):
        add(tmp_path, stem, annotation(SHIP), images=folder, annotations=folder)
    add(tmp_path, "empty", None, images="train", annotations="train")
    content = read(tmp_path, "train")
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "empty.jpg"]
    assert [ann["image_id"] for ann in content["annotations"]] == [1]
    assert len(read(tmp_path, "val")["images"]) == 1
    with pytest.raises(MissingFileError, match=r"has no split 'test'; it has train, val"):
        voc_to_coco(tmp_path, "test")


def test_a_change_is_seen(devkit):
    before = voc_to_coco(devkit, "train")[0]
    assert voc_to_coco(devkit, "train")[0] == before
    (devkit / "Annotations" / "a.xml").write_text(annotation(SHIP, extra="<!-- changed -->"))
    assert len(read(devkit, "train")["annotations"]) == 2


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", r"a\.xml, line 1, column \d+: not valid XML"),
        ("<doc/>", r"a\.xml: its element is <doc>, expected <annotation>"),
        (annotation(SHIP, ("", 1, 1, 5, 5)), r"a\.xml: annotation/object\[2\]/name is empty or missing"),
        (annotation(("ship", 9, 1, 5, 5)), r"object\[1\]/bndbox: xmax is 5, less than xmin, 9"),
        (annotation(("ship", "x", 1, 5, 5)), r"object\[1\]/bndbox/xmin is 'x', expected a number"),
        (annotation(("ship", 1, 1, "nan", 5)), r"object\[1\]/bndbox/xmax is 'nan'"),
        (
            annotation(("ship", 1, 1, 83, 5)),
            r"bndbox \(ship\) is 1, 1, 83, 5, outside of its image of 80x40",
        ),
        ("<annotation><object><name>a</name></object></annotation>", r"object\[1\] \(a\) has no bndbox"),
        (
            "<annotation><object><name>a</name><robndbox/></object></annotation>",
            r"has no bndbox \(it has a rotated box\)",
        ),
        (
            annotation(SHIP).replace("<difficult>0", "<difficult>maybe"),
            r"object\[1\]/difficult is 'maybe'",
        ),
    ],
)
def test_faults_name_file_and_element(devkit, xml, message):
    (devkit / "Annotations" / "a.xml").write_text(xml)
    with pytest.raises(UserError, match=message):
        voc_to_coco(devkit, "train")


def test_rounding_at_the_edge_is_clipped(devkit):
    (devkit / "Annotations" / "a.xml").write_text(annotation(("ship", 0, 0, 81, 41)))
    assert read(devkit, "train")["annotations"][0]["bbox"] == [0, 0, 80, 40]


def test_all_faults_of_a_list_come_at_once(devkit):
    write_list(devkit, "train", "a\ngone\nlost\n")
    with pytest.raises(UserError, match=r"2 faults(.|\n)*train\.txt, line 2: there is no image(.|\n)*line 3"):
        voc_to_coco(devkit, "train")


def test_the_config_takes_one_folder(devkit):
    cfg = load_config("configs/custom_voc.py", [f"data.root={devkit}", "data.name=voc_config"])
    assert (cfg.data.image_size, cfg.data.max_size, cfg.dataloader.train.total_batch_size) == (320, 512, 8)
    assert instantiate(cfg.model.num_classes) == 2
    assert len(instantiate(cfg.dataloader.train.dataset)) == 2
    assert MetadataCatalog.get("voc_config_train").thing_classes == ["car", "ship"]


def test_a_folder_without_splits_is_converted_as_a_whole(tmp_path):
    for stem in ("a", "b"):
        add(tmp_path, stem, annotation(SHIP), images="images", annotations="annotations")
    with pytest.raises(MissingFileError, match=r"voc2coco .* all\.json, then .* split all\.json"):
        voc_to_coco(tmp_path, "train")
    json_file, image_root = voc_to_coco(tmp_path, "all", tmp_path / "all.json")
    assert (json_file, image_root) == (tmp_path / "all.json", tmp_path / "images")
    assert len(json.loads(json_file.read_text())["images"]) == 2
