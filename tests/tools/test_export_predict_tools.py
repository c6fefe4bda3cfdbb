"""tools/export.py and tools/predict.py as a user runs them."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import ROOT, TEST_CONFIGS
from PIL import Image

from loradet.adapters import adapter_state
from loradet.config import load_config
from loradet.model import build_model

CONFIG = str(TEST_CONFIGS / "tiny.py")
OVERRIDES = ["data.root=/nowhere", "data.classes=[ship,car,tank]", "train.device=cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """model.pth, a detector that finds many boxes, and two images in images/."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, OVERRIDES).model)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5)
    model.head.cls_score.bias.data.fill_(-2.0)
    model.head.bbox_pred.weight.data.mul_(0.3)
    torch.save({"model": model.state_dict(), "adapter_recipes": adapter_state(model)}, folder / "model.pth")
    (folder / "images").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 80), Image.BICUBIC).save(folder / "images" / f"{i}.png")
    return folder


def run(tool: str, *words: object) -> int | str | None:
    """The tool in this process; what it leaves by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [tool, *map(str, words)])
        try:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


def checkpoint(folder: Path) -> list[object]:
    return ["--config-file", CONFIG, "--checkpoint", folder / "model.pth"]


def predictions(folder: Path) -> dict:
    return json.loads((folder / "predictions.json").read_text())


@pytest.fixture(scope="module")
def exported(folder):
    path = folder / "model.pt2"
    words = ["--output", path, "--no-dynamic", "--input-size", 60, 64]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run("export.py", *checkpoint(folder), *words, *OVERRIDES) == 0
    assert "64x64 (height x width), fixed" in printed.getvalue()
    assert "batch, height and width fixed: asked for" in printed.getvalue()
    return path


@pytest.mark.slow
def test_an_exported_model_predicts_what_its_checkpoint_does(folder, exported):
    images = folder / "images"
    words = [sys.executable, ROOT / "tools/predict.py", *checkpoint(folder), "--output", folder / "a", images]
    done = subprocess.run(
        [*map(str, words), "--set", *OVERRIDES], capture_output=True, text=True, timeout=120, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    count = len(predictions(folder / "a")["annotations"])
    assert f"{count} detections on 2 images" in done.stdout and count > 5
    assert (
        run("predict.py", "--exported", exported, "--trust", "--device", "cpu", "--output", folder / "b", images) == 0
    )
    ours, theirs = (predictions(folder / name)["annotations"] for name in "ab")
    assert [row["category_id"] for row in ours] == [row["category_id"] for row in theirs]
    for key in ("bbox", "score"):
        np.testing.assert_allclose([row[key] for row in ours], [row[key] for row in theirs], atol=1e-4)
    assert sorted(path.name for path in (folder / "b" / "pictures").iterdir()) == ["0.png", "1.png"]
    assert min(row["score"] for row in ours) >= 0.3


def test_a_broken_image_makes_the_exit_status_1(folder, tmp_path, capfd):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    inputs = [tmp_path / "broken.png", folder / "images" / "0.png"]
    options = ["--output", tmp_path / "out", "--no-pictures", "--score-threshold", 0.1, "--batch-size", 2]
    stopped = run("predict.py", *checkpoint(folder), *inputs, *options, "--set", *OVERRIDES)
    assert stopped == "error: 1 image could not be used; the warnings above say why"
    assert [image["id"] for image in predictions(tmp_path / "out")["images"]] == [2]
    assert "broken.png" in capfd.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--exported", "{f}/model.pt2", "{f}/images"], "--trust"),
        (["--exported", "{f}/model.pth", "--trust", "{f}/images"], "model.pth is no model that loradet export wrote"),
        (["--config-file", CONFIG, "--checkpoint", "{f}/none.pth", "{f}/images"], "none.pth does not exist"),
        (["--config-file", CONFIG, "--checkpoint", "{f}/model.pth", "{f}/no_images"], "no_images"),
    ],
)
def test_mistakes_end_in_one_line(folder, exported, tmp_path, words, message):
    filled = [word.format(f=folder) for word in words]
    overrides = ["--set", *OVERRIDES] if "--config-file" in words else []
    stopped = run("predict.py", *filled, "--output", tmp_path / "out", *overrides)
    assert stopped.startswith("error: ") and message in stopped and "\n" not in stopped
    assert exported.is_file() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "tool, words, message",
    [
        ("predict.py", ["image.png"], "give one of --checkpoint"),
        ("predict.py", ["image.png", "--checkpoint", "a.pth"], "--config-file"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--set", "a=1"], "says everything"),
        ("predict.py", ["image.png", "--onnx", "a.onnx", "--set", "a=1"], "--onnx needs neither"),
        ("predict.py", ["image.png", "--onnx", "a.onnx", "--exported", "a.pt2"], "give one of"),
        ("predict.py", ["image.png", "--onnx", "a.onnx", "--every", "2"], "by --exported"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--batch-size", "0"], "1 or more"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--threshold", "nan"], "expected a number from 0 to 1"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--overlap", "0.3"], "--overlap goes with --tiles"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--flip", "--whole"], "--whole goes with --tiles"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--merge", "nms"], "--merge goes with --tiles, --flip"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--scales", "1;2"], "1;2: expected numbers, as 0.8,1"),
        ("predict.py", ["image.png", "--exported", "a.pt2", "--save", "coco,xml"], "expected some of coco,yolo,csv"),
        ("predict.py", ["clip.mp4", "--exported", "a.pt2", "--every", "0"], "--every: expected 1 or more"),
        ("visualize.py", ["--score-threshold", "2"], "2: expected a number from 0 to 1"),
        ("calibrate.py", ["--predictions", "a", "--score-threshold", "-1"], "-1: expected a number from 0 to 1"),
        ("export.py", ["--config-file", "c", "--checkpoint", "a.pth"], ".pt2"),
        ("export.py", ["--config-file", "c", "--checkpoint", "a.pth", "--format", "onnx"], "ends in .onnx"),
        ("export.py", ["--config-file", "c", "--checkpoint", "a.pth", "--int8", "images"], "of ONNX files"),
        ("export.py", ["--config-file", "c", "--checkpoint", "a.pth", "--input-size", "0", "9"], "--input-size"),
    ],
)
def test_options_that_do_not_fit_are_refused(tool, words, message, capsys):
    output = "model.bin" if message == ".pt2" else "model.pt2"
    assert run(tool, *words, "--output", output) == 2
    assert message in capsys.readouterr().err
