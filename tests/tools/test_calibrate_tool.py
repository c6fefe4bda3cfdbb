"""tools/calibrate.py as a user runs it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.train_tool import ENVIRONMENT, ROOT

TOOL = ROOT / "tools" / "calibrate.py"
_spec = importlib.util.spec_from_file_location("calibrate", TOOL)
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)


def write_split(folder: Path, seed: int) -> tuple[Path, Path]:
    """Annotations of twelve images with two boxes each, and detections of which about half are right."""
    rng = np.random.default_rng(seed)
    truth = {
        "info": {"synthetic": True},
        "images": [{"id": number, "width": 64, "height": 64, "file_name": f"{number}.png"} for number in range(12)],
        "categories": [{"id": 3, "name": "ship"}, {"id": 7, "name": "car"}],
        "annotations": [
            {"id": number + 1, "image_id": number // 2, "category_id": (3, 7)[number % 2], "bbox": [5, 5, 20, 20]}
            for number in range(24)
        ],
    }
    detections = [
        {**{key: box[key] for key in ("image_id", "category_id")}, "bbox": [x, 5, 20, 20], "score": rng.random()}
        for box in truth["annotations"]
        for x in (6, 30)
    ]
    folder.mkdir()
    for name, content in (("truth", truth), ("detections", detections), ("other", detections[::3])):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "truth.json", folder / "detections.json"


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Files (annotations, detections) of two splits and of another detector on the second."""
    folder = tmp_path_factory.mktemp("splits")
    return write_split(folder / "val", 1), write_split(folder / "test", 2), folder / "test" / "other.json"


def run(*words) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )


def test_everything_at_once(splits, tmp_path):
    val, test, other = splits
    words = ["--predictions", test[1], "--annotations", test[0], "--output", tmp_path / "out"]
    words += ["--fit-predictions", val[1], "--fit-annotations", val[0], "--match-iou", 0.6, "--bins", 10]
    done = run(*words, "--score-threshold", 0.1, "--bootstrap", 20, "--seed", 4, "--against", other)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert (content["match_iou"], content["bins"], content["score_threshold"]) == (0.6, 10, 0.1)
    assert content["data"] == "synthetic"
    assert len(content["before"]["reliability"]["count"]) == 10
    assert content["temperature"]["fitted_on_detections"] > 0
    assert f"temperature {content['temperature']['value']:.4f}" in done.stdout
    assert f"{content['before']['ece']:.4f}" in done.stdout
    assert f"{content['after']['ece']:.4f}" in done.stdout
    assert "synthetic images" in done.stdout
    assert (tmp_path / "out" / "reliability_diagram.png").read_bytes().startswith(b"\x89PNG")
    intervals = json.loads((tmp_path / "out" / "bootstrap.json").read_text())
    assert (intervals["resamples"], intervals["seed"], intervals["data"]) == (20, 4, "synthetic")
    assert set(intervals["metrics"]) == set(intervals["difference"])
    one = intervals["metrics"]["mAP"]
    assert one["low"] <= one["value"] <= one["high"]
    assert f"{one['low']:.3f}" in done.stdout


def test_mistakes_are_one_line(splits, tmp_path, monkeypatch, capsys):
    (truth, detections), *_ = splits
    words = ["--predictions", detections, "--annotations", truth, "--output", tmp_path / "out"]
    for more, message in (
        (["--fit-predictions", detections], "says which annotations it belongs to"),
        (["--fit-annotations", truth], "give both the predictions and the annotations"),
        (["--fit-predictions", detections, "--fit-annotations", truth], "fit on another split"),
        (["--match-iou", "1.5"], "match_iou=1.5"),
        (["--annotations", tmp_path / "absent.json"], "absent.json"),
    ):
        monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, [*words, *more])])
        with pytest.raises(SystemExit) as stop:
            tool.main()
        assert stop.value.code.startswith("error: ") and message in stop.value.code
        assert "\n" not in stop.value.code
    monkeypatch.setattr(sys, "argv", ["calibrate.py", *map(str, words), "--seed", "3"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "go with --bootstrap" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
