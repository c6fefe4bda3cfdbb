"""Data sets whose images are turned by a tag, or have more than eight bits: sizes in check, its repairs, and YOLO."""

import json

import numpy as np
import pytest
from helpers.deep_images import write_png, write_tiff
from PIL import Image

from loradet.datasets import check, fix
from loradet.datasets.readers.yolo import yolo_to_coco

STORED = (64, 48)  # height and width in the file; a quarter turn makes it 48 x 64, as `a.jpg` of `coco_folder` is


def stored(dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*STORED, 3)).astype(dtype)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_check_takes_a_turned_tiff_as_it_is_read(coco_folder, orientation, dtype):
    write_tiff(coco_folder.images / "a.tif", stored(dtype), orientation=orientation)
    coco_folder.content["images"][0]["file_name"] = "a.tif"
    source = coco_folder.write()
    assert check(source, coco_folder.images).ok
    fix(source, coco_folder.images, coco_folder.root / "fixed.json")
    assert len(json.loads((coco_folder.root / "fixed.json").read_text())["annotations"]) == 4


@pytest.mark.parametrize("orientation", ["6", 9, 0])
def test_an_orientation_that_does_not_exist_turns_nothing(coco_folder, orientation):
    write_tiff(coco_folder.images / "a.tif", stored().swapaxes(0, 1), orientation=orientation)
    coco_folder.content["images"][0]["file_name"] = "a.tif"
    assert check(coco_folder.write(), coco_folder.images).ok


def test_check_says_what_is_deeper_than_eight_bits_and_what_is_cut(coco_folder):
    scene = np.random.default_rng(0).integers(0, 65536, (40, 40)).astype(np.uint16)
    write_png(coco_folder.images / "b.png", scene)
    cut = write_tiff(coco_folder.images / "a.tif", stored(np.float32).swapaxes(0, 1))
    cut.write_bytes(cut.read_bytes()[:-5000])
    coco_folder.content["images"][0]["file_name"] = "a.tif"
    report = check(coco_folder.write(), coco_folder.images)
    assert [(problem.kind, problem.file_name) for problem in report.problems] == [("unreadable image", "a.tif")]
    assert "(b.png): 16 bits a channel" in report.text()


def test_yolo_records_upright_sizes(tmp_path):
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [a]\n")
    files = {
        write_tiff(folder / "8.tif", stored(), orientation=6): True,
        write_tiff(folder / "16.tif", stored(np.uint16), orientation=8): True,
        write_tiff(folder / "float.tif", stored(np.float32), orientation=5): True,
        write_tiff(folder / "upright.tif", stored(), orientation=3): False,
        write_tiff(folder / "text.tif", stored(), orientation="8"): False,
        write_png(folder / "png.png", stored(np.uint16), orientation=6): True,
    }
    exif = Image.Exif()
    exif[274] = 9
    Image.fromarray(stored()).save(folder / "nine.jpg", exif=exif)
    files[folder / "nine.jpg"] = False
    json_file, _ = yolo_to_coco(tmp_path / "data.yaml", "train")
    sizes = {i["file_name"]: (i["height"], i["width"]) for i in json.loads(json_file.read_text())["images"]}
    assert sizes == {file.name: STORED[::-1] if turned else STORED for file, turned in files.items()}
