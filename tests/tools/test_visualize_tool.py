"""tools/visualize.py as a user runs it, on a tiny detector with random weights."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from helpers.train_tool import CONFIG, ENVIRONMENT, ROOT

from loradet.visualization.command import run_command

TOOL = ROOT / "tools" / "visualize.py"
_spec = importlib.util.spec_from_file_location("visualize", TOOL)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def model(train_data, tmp_path_factory):
    """Options that name the tiny detector, its checkpoint and its data; all scores count."""
    torch.manual_seed(0)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), [f"data.root={train_data}"])
    path = tmp_path_factory.mktemp("model") / "model_best.pth"
    torch.save({"model": instantiate(cfg.model).state_dict()}, path)
    return ["--config-file", CONFIG, "--checkpoint", str(path)]


@pytest.fixture(scope="module")
def overrides(train_data):
    return [f"data.root={train_data}", "train.device=cpu", "model.test_score_thresh=0.0"]


@pytest.fixture(autouse=True)
def _forget_data():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


@pytest.fixture(scope="module")
def export(model, overrides, tmp_path_factory):
    """Two exports of val."""
    folder = tmp_path_factory.mktemp("exports")
    words = ["--export", "--zip", "--analyse", "--subset", "3", "--score-threshold", "0.005", *model, *overrides]
    for name in ("a", "b"):
        run_command(tool.parse_arguments([*words, "--output", str(folder / name)]))
    return folder


def call(monkeypatch, capsys, *words) -> tuple[list[Path], str]:
    """Files that the tool says it wrote, and its error."""
    monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, words)])
    error = ""
    try:
        tool.main()
    except SystemExit as stop:
        error = str(stop.code)
    output = capsys.readouterr()
    written = [Path(line) for line in output.out.splitlines()]
    assert all(path.is_file() for path in written)
    return written, output.err if error == "2" else error


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *words: call(monkeypatch, capsys, *words)


def test_exports_are_equal_to_the_byte(export):
    assert sorted(path.name for path in export.iterdir()) == [
        "a",
        "a.zip",
        "a.zip.sha256",
        "b",
        "b.zip",
        "b.zip.sha256",
    ]
    manifest = json.loads((export / "a" / "manifest.json").read_text())
    assert manifest["data"] == "synthetic"
    assert manifest["subset"] == {"images": 3, "seed": 0}
    assert manifest["config"] == CONFIG
    assert len(list((export / "a" / "pictures").iterdir())) == 3
    for path in (export / "a").rglob("*.*"):
        assert path.read_bytes() == (export / "b" / path.relative_to(export / "a")).read_bytes(), path
    assert json.loads((export / "a" / "metrics.json").read_text())["num_images"] == 3


@pytest.mark.slow
def test_a_process_of_its_own_exports_the_same(model, overrides, export, tmp_path):
    words = ["--export", "--zip", "--analyse", "--subset", "3", "--score-threshold", "0.005", *model, *overrides]
    command = [sys.executable, TOOL, *words, "--output", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "a" / "manifest.json"), str(tmp_path / "a.zip")]
    assert "image" in done.stderr  # progress
    assert (tmp_path / "a.zip").read_bytes() == (export / "a.zip").read_bytes()


def test_painting_keeps_its_form(run, model, overrides, tmp_path):
    written, error = run(*model, "--contact-sheet", "--output", tmp_path / "detections.png", *overrides)
    assert (written, error) == ([tmp_path / "detections.png"], "")
    written, error = run(*overrides, *model, "--num-images", 2, "--no-ground-truth", "--output", tmp_path / "folder")
    assert len(written) == 2, error
    assert "--contact-sheet" in run(*model, "--output", tmp_path / "one.png", *overrides)[1]


def test_comparison(run, export, tmp_path):
    names = [f"first={export / 'a'}", f"second={export / 'b'}"]
    assert len(run("--compare", *names, "--output", tmp_path / "out")[0]) == 3
    written, _ = run("--compare", *names, "--contact-sheet", "--num-images", 2, "--output", tmp_path / "a.png")
    assert written == [tmp_path / "a.png"]
    assert "expected NAME=EXPORT_DIR" in run("--compare", export / "a", names[1], "--output", tmp_path / "x")[1]
    assert "have the name first" in run("--compare", names[0], names[0], "--output", tmp_path / "x")[1]


def test_grad_cam(run, model, overrides, export, tmp_path):
    words = [*model, "--subset", 3, "--output", tmp_path / "cams", *overrides]
    written, error = run("--grad-cam", "p3,p7", "--score-threshold", 0, *words)
    assert len(written) == 5, error
    # The same images as in the exports.
    ids = {str(image["id"]) for image in json.loads((export / "a" / "manifest.json").read_text())["images"]}
    assert {path.stem.split("_")[2] for path in written[1:-1]} == ids
    numbers = json.loads(written[-1].read_text())
    assert {line["level"] for line in numbers["detections"]} <= {"p3", "p7"}
    assert numbers["num_detections"] == len(numbers["detections"]) == 15
    inside = sum(line["hottest_in_box"] for line in numbers["detections"])
    assert numbers["hottest_in_box_share"] == inside / 15
    written, error = run("--grad-cam", "--class", "ship", "--top", 2, *words)
    assert len(written) == 5, error
    assert {line["class"] for line in json.loads(written[-1].read_text())["detections"]} == {"ship"}
    assert run("--grad-cam", "p2", *words)[1] == (
        "error: Grad-CAM: the model has no level 'p2'; it has p3, p4, p5, p6, p7."
    )
    assert "no class 'boat'; it has ship, aircraft" in run("--grad-cam", "p3", "--class", "boat", *words)[1]


def test_an_override_right_behind_grad_cam_is_one():
    words = ["--config-file", "a", "--checkpoint", "b", "--output", "c"]
    found = tool.parse_arguments(["--grad-cam", "train.device=cpu", *words, "data.root=d"])
    assert (found.grad_cam, found.overrides) == (None, ["train.device=cpu", "data.root=d"])
    assert tool.parse_arguments(["--grad-cam", "p3", *words, "data.root=d"]).grad_cam == "p3"


def test_analysis(run, export, train_data, tmp_path):
    written, error = run("--analyse", "--predictions", export / "a", "--output", tmp_path / "a")
    assert len(written) == 6, error
    for path in (export / "a" / "analysis").glob("error_breakdown.*"):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    file, truth = export / "a" / "coco_instances_results.json", train_data / "Annotations" / "val.json"
    words = ["--predictions", file, "--annotations", truth, "--output", tmp_path / "b"]
    assert len(run("--analysis", "--subset", 3, *words)[0]) == 6
    for kind in ("error_breakdown", "precision_recall"):
        first, second = (json.loads((tmp_path / name / f"{kind}.json").read_text()) for name in "ab")
        assert second["data"] == "synthetic"
        assert {**first, "title": ""} == {**second, "title": ""}
    assert "--annotations FILE" in run("--analyse", "--predictions", file, "--output", tmp_path / "c")[1]
    assert "leave --annotations out" in run("--analyse", *words, "--predictions", export / "a")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-file", "a.py"], "required for painting: --checkpoint"),
        (["--analyse"], "required for --analyse: --predictions"),
        (["--export", "--config-file", "a", "--checkpoint", "b", "--num-images", "3"], "--num-images does not go with"),
        (["--config-file", "a.py", "--checkpoint", "b", "--zip"], "--zip does not go with painting"),
        (["--compare", "a=b", "c=d", "--subset", "5"], "--subset does not go with --compare"),
        (["--compare", "a=b", "--grad-cam", "p3"], "--compare and --grad-cam cannot go together"),
        (["--config-file", "a", "--checkpoint", "b", "--subset-seed", "1"], "--subset-seed needs --subset"),
        (["--export", "--config-file", "a", "--checkpoint", "b", "--iou-threshold", "0.5"], "is for --analyse"),
        (["--analyse", "--predictions", "a", "key=value"], "KEY=VALUE does not go with --analyse"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, tmp_path, words, message):
    written, error = run(*words, "--output", tmp_path / "out")
    assert not written
    assert message in error
    assert not (tmp_path / "out").exists()


def test_another_kind_of_picture_is_no_folder(run, tmp_path):
    written, error = run("--config-file", "a.py", "--checkpoint", "b", "--output", tmp_path / "sheet.JPG")
    assert not written
    assert "sheet.JPG: pictures are written as PNG" in error


def test_mistakes_end_in_one_line(run, model, overrides, tmp_path):
    words = [*model, "--export", "--output", tmp_path / "out", *overrides]
    assert run(*words, "--split", "valid")[1].startswith("error: 'valid' is not an evaluation split")
    assert run(*words, "--subset", 0)[1] == "error: A subset of 0 images: expected 1 or more."
    error = run(*words, "model.num_classes=5")[1]
    assert error.startswith("error: ")
    assert "\n" not in error
    assert not (tmp_path / "out").exists()
