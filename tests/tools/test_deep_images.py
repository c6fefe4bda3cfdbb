"""Images of more than eight bits through all tools, as a user runs them: trained, evaluated, predicted, exported."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.deep_images import write_png, write_tiff
from helpers.train_tool import CONFIG, ROOT, arguments, call, lines, reproducible, succeed
from PIL import Image

from loradet.adapters import read_adapter
from loradet.config import load_config
from loradet.config.intensity import with_intensity_of
from loradet.datasets.synthetic import generate
from loradet.inference.metadata import read_metadata

SIDES = (64, 80)


def run(tool: str, *words: object) -> int | str | None:
    """The tool in this process; what it leaves by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [tool, *map(str, words)])
        try:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as stop:
            return stop.code
    return 0


@pytest.fixture(scope="module")
def shallow(tmp_path_factory) -> Path:
    """Grey scenes of 8 bits that are not the whole range: 40 to 167."""
    root = generate(tmp_path_factory.mktemp("data") / "8", size=SIDES, counts={"train": 8, "val": 3, "test": 0})
    for file in root.glob("JPEGImages/*/*.png"):
        Image.fromarray(np.asarray(Image.open(file).convert("L")) // 2 + 40).save(file)
    return root


def twin(shallow: Path, name: str, write) -> Path:
    """The same data set with images that `write(file, pixels)` makes of those of 8 bits."""
    root = shallow.with_name(name)
    shutil.copytree(shallow, root)
    for file in root.glob("JPEGImages/*/*.png"):
        pixels = np.asarray(Image.open(file))
        file.unlink()
        write(file, pixels)
    return root


@pytest.fixture(scope="module")
def deep(shallow) -> Path:
    """16 bits, from 1000 to 2270: what «auto» would make almost black."""
    return twin(shallow, "16", lambda file, pixels: write_png(file, pixels.astype(np.uint16) * 10 + 600))


RULE = "data.intensity=[600,3150]"  # 255 levels of 10: the pixels of 8 bits again
SHORT = ("train.max_iter=2", "train.eval_period=2")


@pytest.fixture(scope="module")
def runs(shallow, deep, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    succeed(*arguments(shallow, folder / "shallow", "data.name=shallow", *SHORT))
    succeed(*arguments(deep, folder / "deep", "data.name=deep", RULE, *SHORT))
    return {"shallow": folder / "shallow", "deep": folder / "deep"}


def test_nothing_is_trained_on_what_would_be_lost(deep, tmp_path):
    status, stderr = call(*arguments(deep, tmp_path / "run", "data.name=refused", *SHORT))
    assert status == 1
    (line,) = [one for one in stderr.splitlines() if one.startswith("error:")]
    assert "train: 7 of 7 images have 16-bit unsigned samples" in line
    assert str(deep / "JPEGImages" / "train") in line
    assert "data.intensity=[" in line
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_split_to_evaluate_on_is_looked_into_too(shallow, deep, tmp_path):
    mixed = twin(shallow, "mixed", lambda file, pixels: Image.fromarray(pixels).save(file))
    for file in (deep / "JPEGImages" / "val").iterdir():
        shutil.copy(file, mixed / "JPEGImages" / "val" / file.name)
    status, stderr = call(*arguments(mixed, tmp_path / "run", "data.name=mixed", *SHORT))
    assert status == 1
    assert "val: 3 of 3 images have 16-bit unsigned samples" in stderr


@pytest.mark.slow
def test_twins_train_and_evaluate_alike(runs):
    shallow, deep = ([reproducible(line) for line in lines(runs[name])] for name in ("shallow", "deep"))
    assert shallow == deep
    metrics = [json.loads((runs[name] / "val_metrics.json").read_text()) for name in ("shallow", "deep")]
    assert metrics[0]["coco/bbox_mAP"] == metrics[1]["coco/bbox_mAP"]


def test_the_rule_stays_with_the_model(runs):
    for name, rule in (("shallow", "auto"), ("deep", [600, 3150])):
        cfg = load_config(str(runs[name] / "config.yaml"), [])
        assert cfg.data.intensity == cfg.dataloader.val.mapper.intensity == rule
        assert read_adapter(runs[name] / "adapter.safetensors")[0]["intensity"] == rule
        assert torch.load(runs[name] / "model_best.pth", weights_only=True)["intensity"] == rule
    changed = load_config(str(runs["deep"] / "config.yaml"), ["data.intensity=percentile:1,99"])
    assert changed.dataloader.test.mapper.intensity == "percentile:1,99"
    assert json.loads((runs["deep"] / "run.json").read_text())["versions"]["opencv"]


def predicted(output: Path, images: Path, run_folder: Path, *words: object, config: object = CONFIG) -> list[dict]:
    model = ["--config-file", config, "--checkpoint", run_folder / "model_best.pth"]
    threshold = ["--score-threshold", 0, "--no-pictures"]
    settings = ["data.root=/nowhere", "train.device=cpu", "model.test_score_thresh=0.0", *words]
    assert run("predict.py", images, *model, "--output", output, *threshold, "--set", *settings) == 0
    content = json.loads((output / "predictions.json").read_text())
    assert len(content["annotations"]) > 20
    return content["annotations"]


def test_predictions_of_twins_are_the_same(runs, shallow, deep, tmp_path):
    """Also by the config that knows nothing of the rule: the weights say it."""
    images = [root / "JPEGImages" / "val" for root in (shallow, deep)]
    expected = predicted(tmp_path / "a", images[0], runs["shallow"])
    assert predicted(tmp_path / "b", images[1], runs["deep"]) == expected
    own = runs["deep"] / "config.yaml"
    assert predicted(tmp_path / "c", images[1], runs["deep"], config=own) == expected
    # Another sensor: the rule is given.
    other = twin(shallow, "float", lambda file, pixels: write_tiff(file, (pixels / 255 * 7).astype(np.float32)))
    words = ["data.intensity=[0,7]"]
    assert predicted(tmp_path / "d", other / "JPEGImages" / "val", runs["deep"], *words, config=own) == expected


def test_weights_say_by_which_rule_images_are_read(runs, caplog):
    for file in ("adapter.safetensors", "model_best.pth"):
        found = with_intensity_of(load_config(CONFIG, ["data.root=/nowhere"]), runs["deep"] / file)
        assert found.data.intensity == found.dataloader.val.mapper.intensity == [600, 3150]
    asked = load_config(CONFIG, ["data.root=/nowhere", "data.intensity=full_range"])
    assert with_intensity_of(asked, runs["deep"] / "model_best.pth") is asked
    assert "was trained with data.intensity=[600,3150]; the images are read by the config's, full_range" in caplog.text


def test_images_that_a_model_would_lose_are_not_predicted_on(runs, deep, tmp_path):
    model = ["--config-file", CONFIG, "--checkpoint", runs["shallow"] / "model_best.pth"]
    words = ["--output", tmp_path, "--set", "data.root=/nowhere", "train.device=cpu"]
    assert "by 'data.intensity=[" in run("predict.py", deep / "JPEGImages" / "val", *model, *words)
    assert not (tmp_path / "predictions.json").exists()


@pytest.mark.slow
def test_an_export_reads_by_the_rule(runs, shallow, deep, tmp_path):
    for name in ("shallow", "deep"):
        model = ["--config-file", CONFIG, "--checkpoint", runs[name] / "model_best.pth"]
        size = ["--no-dynamic", "--input-size", 64, 64]
        settings = ["data.root=/nowhere", "train.device=cpu", "model.test_score_thresh=0.0"]
        assert run("export.py", *model, "--output", tmp_path / f"{name}.pt2", *size, *settings) == 0
    assert read_metadata(tmp_path / "deep.pt2")["intensity"] == [600, 3150]
    found = []
    for name, root in (("shallow", shallow), ("deep", deep)):
        words = ["--exported", tmp_path / f"{name}.pt2", "--trust", "--device", "cpu", "--score-threshold", 0]
        assert run("predict.py", root / "JPEGImages/val", *words, "--output", tmp_path / name) == 0
        found.append(json.loads((tmp_path / name / "predictions.json").read_text())["annotations"])
    assert found[0] == found[1]


def visualize(root: Path, run_folder: Path, *words: object) -> None:
    model = ["--config-file", CONFIG, "--checkpoint", run_folder / "model_best.pth"]
    settings = [f"data.root={root}", f"data.name={run_folder.name}", "train.device=cpu", "model.test_score_thresh=0.0"]
    assert run("visualize.py", *model, *words, "--score-threshold", 0.01, *settings) == 0


def pixels_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]


def test_pictures_of_twins_are_the_same(runs, shallow, deep, tmp_path):
    for name, root in (("shallow", shallow), ("deep", deep)):
        visualize(root, runs[name], "--export", "--output", tmp_path / name)
        visualize(root, runs[name], "--num-images", 2, "--output", tmp_path / name / "painted")
        visualize(root, runs[name], "--grad-cam", "p3", "--num-images", 1, "--output", tmp_path / name / "heat")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("shallow", "deep")]
    for file in ("coco_instances_results.json", "ground_truth.json"):
        assert manifests[0]["sha256"][file] == manifests[1]["sha256"][file]
    assert [manifest["intensity"] for manifest in manifests] == ["auto", [600, 3150]]
    for kind, count in (("pictures", 3), ("painted", 2), ("heat", 2)):
        pairs = list(zip(pixels_of(tmp_path / "shallow" / kind), pixels_of(tmp_path / "deep" / kind)))
        assert len(pairs) == count
        for one, other in pairs:
            np.testing.assert_array_equal(one, other)
    compared = {}
    for name in ("shallow", "deep"):
        words = [f"{number}={tmp_path / name}" for number in ("one", "two")]
        assert run("visualize.py", "--compare", *words, "--output", tmp_path / f"compared_{name}") == 0
        compared[name] = pixels_of(tmp_path / f"compared_{name}")
    for one, other in zip(compared["shallow"], compared["deep"]):
        np.testing.assert_array_equal(one, other)
