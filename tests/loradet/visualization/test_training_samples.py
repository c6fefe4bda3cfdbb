"""`loradet visualize --augmented`: the first samples of a run, as its loader gives them."""

import json

import cv2
import numpy as np
import pytest
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from helpers.paths import TEST_CONFIGS
from PIL import Image

from loradet.cli import visualize
from loradet.config.load import load_config
from loradet.datasets.synthetic import generate
from loradet.visualization.painting import LabelledBoxes, enlarge, paint_boxes
from loradet.visualization.text import GAP, LINE

CONFIG = str(TEST_CONFIGS / "tiny.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data"), size=(48, 64), counts={"train": 6})


@pytest.fixture(scope="module", autouse=True)
def _forget_data():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


def call(capsys, *words):
    """What the command wrote, as RGB, and its error."""
    try:
        visualize.main([str(word) for word in words])
    except SystemExit as stop:
        return None, str(stop.code)
    (file,) = capsys.readouterr().out.split()
    return cv2.imread(file)[:, :, ::-1], ""


def painted(sample, factor, names):
    boxes = LabelledBoxes(sample["instances"].gt_boxes.tensor.numpy(), sample["instances"].gt_classes.numpy())
    picture = np.ascontiguousarray(sample["image"].numpy().transpose(1, 2, 0))
    return paint_boxes(*enlarge(picture, boxes, factor), names)


@pytest.mark.parametrize("preset", ["mosaic"])
def test_pictures_are_the_first_samples_of_the_run(data, tmp_path, capsys, preset):
    words = [f"data.root={data}", f"data.augment={preset}", "train.seed=3"]
    sheet, error = call(
        capsys, "--augmented", *words, "--config-file", CONFIG, "--num-images", 5, "--output", tmp_path / "sheet.png"
    )
    assert not error
    cfg = load_config(CONFIG, [*words, "dataloader.train.num_workers=0"])
    names = json.loads((data / "Annotations" / "train.json").read_text())["categories"]
    batches = iter(instantiate(cfg.dataloader.train))
    samples = [*next(batches), *next(batches)][:5]
    factor = 300 / max(max(sample["image"].shape[1:]) for sample in samples)
    width = round(factor * max(sample["image"].shape[2] for sample in samples))
    first = painted(samples[0], factor, [one["name"] for one in names])
    second = painted(samples[1], factor, [one["name"] for one in names])
    top = LINE + LINE  # below the heading and the title
    assert (sheet[top : top + first.shape[0], GAP : GAP + first.shape[1]] == first).all()
    left = 2 * GAP + width
    assert (sheet[top : top + second.shape[0], left : left + second.shape[1]] == second).all()
    assert sheet.shape[1] == 4 * (width + GAP) + GAP


def test_presets_are_rows_of_draws_of_one_image(data, tmp_path, capsys):
    words = ["--config-file", CONFIG, "--num-images", 2, f"data.root={data}"]
    sheet, error = call(capsys, "--augmented", "basic,lsj", *words, "--output", tmp_path)
    assert not error and (tmp_path / "augmented.png").is_file()
    # The wide picture of the first preset, and the square of the second.
    assert sheet.shape == (LINE + (LINE + 225 + GAP) + (LINE + 300 + GAP) + LINE, 3 * GAP + 2 * 300, 3)
    assert "there is no such preset; expected of basic, multi_scale" in call(
        capsys, "--augmented", "basic,jitter", *words, "--output", tmp_path
    )[1]  # fmt: skip


def test_mistakes_end_in_one_line(data, tmp_path, capsys):
    words = ["--augmented", "--config-file", CONFIG, "--output", tmp_path / "a.png", f"data.root={data}"]
    assert "expected 1 or more" in call(capsys, *words, "--num-images", 0)[1]
    broken = generate(tmp_path / "broken", size=(48, 64), counts={"train": 2})
    for file in (broken / "JPEGImages" / "train").iterdir():
        Image.new("RGB", (8, 8)).save(file)
    error = call(capsys, *words, f"data.root={broken}", "data.name=broken")[1]
    assert error.startswith("error: Sample ") and "\n" not in error
    for option in (["--checkpoint", "a.pth"], ["--score-threshold", "0.5"], ["--split", "val"]):
        assert call(capsys, *words, *option)[1] == "2"
        assert "does not go with --augmented" in capsys.readouterr().err
    assert call(capsys, "--augmented", "--output", "a.png")[1] == "2"
    assert "required for --augmented: --config-file" in capsys.readouterr().err
