"""The usual folders are recognised, and a config on another one is told which config to take."""

import json
import shlex
from pathlib import Path

import pytest
from detectron2.config import instantiate
from PIL import Image

from loradet.config import load_config
from loradet.datasets import synthetic
from loradet.datasets.layouts import advice, recognise
from loradet.datasets.readers.any_layout import layout_of, split_as_coco
from loradet.errors import UserError

XML = "<annotation><object><name>ship</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
XML += "</object></annotation>"
CONTENT = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 32, "height": 24}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 6], "area": 48, "iscrowd": 0}],
    "categories": [{"id": 1, "name": "ship"}],
}
COCO = {
    "coco": ("annotations/{}.json", "images/{}", {}),
    "coco2017": ("annotations/instances_{}2017.json", "{}2017", {}),
    "cvat": ("annotations/instances_{}.json", "images/{}", {}),
    "sardet": ("Annotations/{}.json", "JPEGImages/{}", {}),
    "roboflow": ("{}/_annotations.coco.json", "{}", {"val": "valid"}),
}
NAMES = {
    "coco": "COCO",
    "coco2017": "COCO 2017",
    "cvat": "COCO",
    "sardet": "SARDet-100K",
    "roboflow": "Roboflow's COCO export",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "voc_folders": "Pascal VOC",
}


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def picture(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24)).save(folder / "a.jpg")


def make(root: Path, kind: str) -> Path:
    """A folder of two splits, train and val, of one image each."""
    for split in ("train", "val"):
        if kind in COCO:
            annotations, images, called = COCO[kind]
            name = called.get(split, split)
            picture(root / images.format(name))
            write(root / annotations.format(name), json.dumps(CONTENT))
        elif kind == "yolo":
            picture(root / "images" / split)
            write(root / "labels" / split / "a.txt", "0 0.5 0.5 0.25 0.25\n")
            write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [ship]\n")
        elif kind == "voc":
            picture(root / "JPEGImages")
            write(root / "Annotations" / "a.xml", XML)
            write(root / "ImageSets" / "Main" / f"{split}.txt", "a\n")
        else:
            name = {"val": "valid"}.get(split, split)
            picture(root / name)
            write(root / name / "a.xml", XML)
    return root


@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_is_recognised_and_its_config_reads_it(kind, tmp_path):
    root = make(tmp_path / "my data", kind)
    layout = layout_of(root)
    assert (layout.name, list(layout.splits)) == (NAMES[kind], ["train", "val"])
    for split in layout.splits:
        json_file, image_root = split_as_coco(layout, split)
        content = json.loads(json_file.read_text())
        assert [(image_root / image["file_name"]).is_file() for image in content["images"]] == [True]
        assert len(content["annotations"]) == 1
    config, *overrides = shlex.split(layout.config)
    cfg = load_config(config, [*overrides, f"data.name=layout_{kind}"])
    assert [len(instantiate(cfg.dataloader[split].dataset)) for split in layout.splits] == [1, 1]
    assert instantiate(cfg.model.num_classes) == 1


@pytest.mark.parametrize("style", ["sardet", "coco2017", "roboflow", "yolo"])
def test_synthetic_sets_are_of_known_layouts(style, tmp_path):
    counts = dict.fromkeys(("train", "val"), 1)
    root = synthetic.generate(tmp_path / "set", style="shapes", size=64, counts=counts, seed=0, layout=style)
    assert layout_of(root).name == NAMES[style]
    assert list(layout_of(root).splits) == ["train", "val"]


CONFIGS = {"coco": "custom_coco", "roboflow": "custom_roboflow", "yolo": "custom_yolo", "voc": "custom_voc"}


@pytest.mark.parametrize(("own", "kind"), [(own, kind) for own in CONFIGS for kind in CONFIGS if own != kind])
def test_a_config_on_another_layout_says_which_config_to_take(own, kind, tmp_path):
    root = make(tmp_path / "set", kind)
    key = "data.data_yaml" if own == "yolo" else "data.root"
    cfg = load_config(f"configs/{CONFIGS[own]}.py", [f"{key}={root}"])
    with pytest.raises(UserError) as error:
        instantiate(cfg.dataloader.train.dataset)
    assert f"{root} is laid out as {NAMES[kind]}: take --config-file configs/{CONFIGS[kind]}.py" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_split_that_a_layout_lacks_is_no_other_layout(tmp_path):
    for kind in ("coco", "roboflow"):
        root = make(tmp_path / kind, kind)
        cfg = load_config(f"configs/{CONFIGS[kind]}.py", [f"data.root={root}"])
        with pytest.raises(UserError, match="there is no such file") as error:
            instantiate(cfg.dataloader.test.dataset)
        assert "laid out" not in str(error.value)


def test_what_is_of_no_layout_is_said(tmp_path):
    write(tmp_path / "set" / "notes.txt", "")
    write(tmp_path / "set" / "settings.yaml", "a: [1")
    assert recognise(tmp_path / "set") is None
    assert recognise(tmp_path / "gone") is None
    assert advice(tmp_path / "set" / "annotations" / "train.json") == ""
    with pytest.raises(UserError, match=r"in no way that is known: .*SARDet-100K \(Annotations/train\.json\).*YOLO"):
        layout_of(tmp_path / "set")


def test_the_images_decide_where_letters_of_a_name_do_not(tmp_path):
    """As on a file system on which Annotations and annotations are one folder."""
    root = make(tmp_path / "set", "coco")
    (root / "Annotations").symlink_to(root / "annotations")
    assert layout_of(root).config == f"configs/custom_coco.py data.root={root}"


def test_another_dataloader_keeps_image_size_and_batch(tmp_path):
    for part, extra in (("roboflow", ""), ("yolo", "data.data_yaml = 'x'\n"), ("voc", "")):
        file = tmp_path / f"{part}.py"
        file.write_text(
            "from detectron2.config import LazyConfig\n"
            f"_mine = LazyConfig.load({str(Path('configs/custom_coco.py').absolute())!r})\n"
            f"_other = LazyConfig.load({str(Path(f'configs/common/{part}.py').absolute())!r})\n"
            "data, model, train, optimizer, lr_multiplier = (\n"
            "    _mine[k] for k in ('data', 'model', 'train', 'optimizer', 'lr_multiplier')\n"
            f")\ndataloader = _other.dataloader\n{extra}"
        )
        cfg = load_config(str(file), ["data.root=/data"])
        assert cfg.dataloader.train.total_batch_size == 8, part
        for split in ("train", "val", "test"):
            resize = cfg.dataloader[split].mapper.augmentations[0]
            assert (resize.short_edge_length, resize.max_size) == (320, 512), part
        assert cfg.dataloader.train.dataset.get("polygons", False) is False
        assert cfg.dataloader.train.dataset.get("max_images") is None
