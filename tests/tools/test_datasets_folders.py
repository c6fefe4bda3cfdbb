"""tools/datasets.py on folders: check of every split, split of one file, conversion of Pascal VOC."""

import importlib.util
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.paths import ROOT
from PIL import Image

from loradet.config import load_config
from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.intensity_check import check_intensity
from loradet.datasets.synthetic import generate

_spec = importlib.util.spec_from_file_location("datasets_tool", ROOT / "tools" / "datasets.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@pytest.fixture
def ask(capsys):
    """Runs the tool in this process: exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = tool.main(list(map(str, arguments)))
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


def make(root: Path, layout: str) -> Path:
    return generate(root, style="shapes", size=64, counts={"train": 6, "val": 2}, seed=0, layout=layout)


@pytest.mark.parametrize(
    ("layout", "name", "config"),
    [
        ("sardet", "SARDet-100K", "configs/custom_coco.py"),
        ("roboflow", "Roboflow's COCO export", "configs/custom_roboflow.py"),
        ("yolo", "YOLO", "configs/custom_yolo.py"),
    ],
)
def test_check_takes_a_folder(layout, name, config, tmp_path, ask):
    root = make(tmp_path / "set", layout)
    status, out, _ = ask("check", root)
    assert status == 0, out
    assert f"{root}: {name}; splits: train, val" in out
    assert out.count("no problems") == 2
    assert f"--config-file {config}" in out


def test_the_command_that_check_gives_says_how_deep_pictures_are_read(tmp_path, ask):
    root = make(tmp_path / "yolo", "yolo")
    for picture in (root / "images").rglob("*.jpg"):
        grey = np.asarray(Image.open(picture).convert("L"))
        Image.fromarray(2900 + grey.astype(np.uint16)).save(picture.with_suffix(".png"))
        picture.unlink()
    status, out, _ = ask("check", root)
    assert status == 0, out
    config, data, intensity = shlex.split(out.splitlines()[-1].partition("--config-file ")[2])
    assert (config, data) == ("configs/custom_yolo.py", f"data.data_yaml={root / 'data.yaml'}")
    low, high = json.loads(intensity.removeprefix("data.intensity="))
    assert 2900 <= low < high <= 3155
    check_intensity(sorted((root / "images" / "train").iterdir()), Intensity.parse([low, high]), "train")


def test_check_of_a_folder_finds_what_is_wrong_in_any_split(tmp_path, ask):
    root = make(tmp_path / "yolo", "yolo")
    label = next((root / "labels" / "val").iterdir())
    label.write_text("77 0.5 0.5 0.2 0.2\n")
    status, out, _ = ask("check", root)
    assert status == 1
    assert out.count("no problems") == 1
    assert f"{label}, line 1: class 77" in out

    root = make(tmp_path / "sardet", "sardet")
    next((root / "JPEGImages" / "val").iterdir()).unlink()
    status, out, _ = ask("check", root)
    assert status == 1
    assert "missing image: 1" in out


def test_check_of_a_yolo_folder_may_clip_and_take_polygons(tmp_path, ask):
    root = make(tmp_path / "yolo", "yolo")
    first, second = sorted((root / "labels" / "val").iterdir())
    first.write_text("0 0.9 0.5 0.5 0.5\n")
    second.write_text("0 0.2 0.2 0.6 0.2 0.4 0.6\n")
    status, out, _ = ask("check", root)
    assert status == 1 and "--clip" in out and "--polygons" in out
    status, out, _ = ask("check", root, "--clip", "--polygons")
    assert status == 0, out
    assert out.count("no problems") == 2
    assert f"note: boxes that leave the image are clipped to it: 1 (in labels/val/{first.name})." in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FOLDER", "--images", "FOLDER"], "a folder or data.yaml is checked by itself"),
        (["data.yaml", "some.json"], "a folder or data.yaml is checked by itself"),
        (["FOLDER", "--fix", "x.json"], "--fix repairs one file"),
        (["some.json", "--images", "FOLDER", "FOLDER"], "--images: expected 1 folder"),
        (["some.json", "--clip"], "some.json is no YOLO folder"),
        (["FOLDER"], "is laid out in no way that is known"),
        (["nowhere/at_all"], "nowhere/at_all: there is no such file or folder"),
    ],
)
def test_what_check_cannot_take(words, message, tmp_path, ask):
    status, _, err = ask("check", *(str(tmp_path) if word == "FOLDER" else word for word in words))
    assert status == 2
    assert message in err


def test_split_writes_files_for_a_config_and_never_over_others(tmp_path, ask):
    root = make(tmp_path / "set", "sardet")
    source = root / "Annotations" / "train.json"
    status, out, _ = ask("split", source, "--val", 0.4, "--test", 0.2)
    assert status == 0
    folder = root / "Annotations" / "train_split"
    counts = {file.stem: len(json.loads(file.read_text())["images"]) for file in folder.iterdir()}
    assert sum(counts.values()) == 6
    assert min(counts.values()) >= 1
    assert counts.keys() == {"train", "val", "test"}
    for split in counts:
        assert f"data.{split}_json={folder / f'{split}.json'} data.{split}_images=IMAGES" in out
    status, _, err = ask("split", source)
    assert status == 2
    assert "never overwritten" in err


def test_voc_of_no_split_becomes_one_file(tmp_path, ask):
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "Annotations" / "a.xml").write_text(
        "<annotation><object><name>x</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>6</ymax></bndbox>"
        "</object></annotation>"
    )
    status, out, _ = ask("voc2coco", tmp_path, tmp_path / "all.json")
    assert (status, out) == (0, f"{tmp_path / 'all.json'}: image_root is {tmp_path / 'JPEGImages'}\n")
    assert json.loads((tmp_path / "all.json").read_text())["annotations"][0]["bbox"] == [0, 0, 5, 6]
    status, out, _ = ask("check", tmp_path)
    assert status == 0
    assert "Pascal VOC; splits: all" in out
    assert "Train on it" not in out


@pytest.mark.parametrize("how", ["all crowd", "no annotation", "no image"])
def test_check_exits_1_where_a_training_would_have_nothing(how, tmp_path, ask):
    root = make(tmp_path / "set", "sardet")
    train, nothing = root / "Annotations" / "train.json", tmp_path / "nothing.json"
    content = json.loads(train.read_text())
    if how == "all crowd":
        for annotation in content["annotations"]:
            annotation["iscrowd"] = 1
    else:
        content["annotations"] = []
        content["images"] = [] if how == "no image" else content["images"]
    nothing.write_text(json.dumps(content))
    status, out, _ = ask("check", nothing)
    assert status == 1 and "nothing to train on and nothing to find" in out
    # Nobody may know the objects of a later split, as of COCO's test images; boxes of which none counts are a mistake.
    assert ask("check", train, nothing)[0] == (1 if how == "all crowd" else 0)
    train.write_text(nothing.read_text())
    status, out, _ = ask("check", root)
    assert status == 1 and "Train on it" not in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [x", "data.yaml is not valid YAML"),
        ("- 1", "data.yaml: expected keys like train"),
        ("train: images/train", "data.yaml: names is None"),
    ],
)
def test_a_broken_description_is_said_rather_than_an_unknown_layout(text, message, tmp_path, ask):
    root = make(tmp_path / "yolo", "yolo")
    (root / "data.yaml").write_text(text)
    for source in (root, root / "data.yaml"):
        status, _, err = ask("check", source)
        assert status == 2 and message in err and "no way that is known" not in err


def test_check_takes_a_description_beside_files_of_coco(tmp_path, ask):
    root = make(tmp_path / "set", "yolo")
    (root / "annotations").mkdir()
    (root / "annotations" / "train.json").write_text("{}")
    status, out, _ = ask("check", root / "data.yaml")
    assert status == 0, out
    assert "YOLO; splits: train, val" in out
    assert f"configs/custom_yolo.py data.data_yaml={root / 'data.yaml'}" in out


def test_what_split_prints_is_enough_for_a_config(tmp_path, ask):
    root = make(tmp_path / "set", "sardet")
    source = root / "Annotations" / "train.json"
    status, out, _ = ask("split", source, "--val", "0.5", "--output", tmp_path / "parts")
    assert status == 0
    words = out.partition("for IMAGES:")[2].replace("IMAGES", str(root / "JPEGImages/train")).split()
    assert f"data.root={source.parent}" in words
    config = str(ROOT / "configs" / "custom_coco.py")
    cfg = load_config(config, [*words, "data.classes=[square,disc,triangle]"])
    assert cfg.dataloader.val.dataset.json_file == str(tmp_path / "parts" / "val.json")
    assert cfg.dataloader.test.dataset.json_file  # though nobody evaluates on it


def test_a_training_without_val_is_told_so(tmp_path, ask):
    root = make(tmp_path / "set", "sardet")
    (root / "Annotations" / "val.json").unlink()
    status, out, _ = ask("check", root)
    assert status == 0 and out.rstrip().endswith(" 'train.eval_splits=[]'")
