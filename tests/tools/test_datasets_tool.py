import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

_TOOL = ROOT / "tools" / "datasets.py"


def _run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(_TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tool") / "set"
    result = _run("synthetic", root, "--size", 64, 96, "--train", 8, "--val", 2, "--test", 0, "--seed", 3)
    assert result.returncode == 0, result.stderr
    return root


def _sound(root: Path) -> tuple[Path, Path]:
    return root / "Annotations" / "train.json", root / "JPEGImages" / "train"


def test_synthetic(made):
    content = json.loads((made / "Annotations" / "train.json").read_text())
    assert len(content["images"]) == 8
    assert (content["images"][0]["height"], content["images"][0]["width"]) == (64, 96)
    result = _run("synthetic", made, "--seed", 4)
    assert result.returncode == 2
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_check_exits_1_where_it_finds_something(made, tmp_path):
    json_file, images = _sound(made)
    result = _run("check", json_file, made / "Annotations" / "val.json", "--images", images, images.parent / "val")
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("no problems") == 2

    content = json.loads(json_file.read_text())
    content["annotations"][0]["bbox"] = [0, 0, -1, 5]
    broken, fixed = tmp_path / "broken.json", tmp_path / "fixed.json"
    broken.write_text(json.dumps(content))
    result = _run("check", json_file, broken, "--images", images)
    assert result.returncode == 1
    assert "box without area: 1" in result.stdout
    assert _run("check", broken, "--images", images, "--fix", fixed).returncode == 1
    assert _run("check", fixed, "--images", images).returncode == 0
    assert _run("check", broken, "--images", images, "--fix", broken).returncode == 2


def test_check_with_a_config_and_a_page(made, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("datasets_tool", _TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    json_file, images = _sound(made)
    content = json.loads(json_file.read_text())
    content["annotations"][0]["bbox"] = [1, 30, 90, 2]
    changed, page = tmp_path / "changed.json", tmp_path / "pages" / "check.html"
    changed.write_text(json.dumps(content))
    command = ["check", changed, made / "Annotations" / "val.json", "--images", images, images.parent / "val"]
    options = ["--config-file", _TOOL.parents[1] / "configs" / "custom_coco.py", "data.image_size=64", "--report", page]
    assert tool.main([str(one) for one in (*command, *options, "--limit", 1)]) == 0
    told = capsys.readouterr().out
    assert "warning: very long box: 1 (--fix leaves it)" in told
    assert "changed, " in told and "boxes reach no anchor by IoU 0.5" in told
    assert "pictures resized to a shorter edge of 64, a longer of at most 512" in told
    assert "annotation 1: 90 x 2 pixels once resized" in told
    assert page.read_text().count("data:image/jpeg;base64,") > 0
    # A detector without anchors; pictures that are not opened.
    config = _TOOL.parents[1] / "configs" / "custom_detr.py"
    assert tool.main(["check", str(json_file), "--config-file", str(config)]) == 0
    told = capsys.readouterr().out
    assert "its detector has no anchors" in told and "pictures were not opened" in told


def test_the_same_picture_in_two_splits_is_a_problem(made, tmp_path):
    json_file, images = _sound(made)
    val = shutil.copytree(images.parent / "val", tmp_path / "val")
    shutil.copy(images / "000003.png", val / "000001.png")
    result = _run("check", json_file, made / "Annotations" / "val.json", "--images", images, val)
    assert result.returncode == 1
    assert "same picture in two splits: 1" in result.stdout
    assert "(000001.png): it is in val, and shows the same as image" in result.stdout


def test_subset_and_summary(made, tmp_path):
    json_file, _ = _sound(made)
    result = _run("subset", json_file, tmp_path / "small.json", "--count", 3)
    assert result.returncode == 0, result.stderr
    assert len(json.loads((tmp_path / "small.json").read_text())["images"]) == 3
    result = _run("summary", tmp_path / "small.json", "--png", tmp_path / "small.png")
    assert result.returncode == 0, result.stderr
    assert "3 images (0 without boxes)" in result.stdout
    assert (tmp_path / "small.png").is_file()
    result = _run("subset", json_file, tmp_path / "large.json", "--count", 300)
    assert result.returncode == 2
    assert not (tmp_path / "large.json").exists()


def test_yolo2coco(made, tmp_path):
    images = tmp_path / "images" / "val"
    images.mkdir(parents=True)
    (images / "one.png").write_bytes((made / "JPEGImages" / "val" / "000000.png").read_bytes())
    (tmp_path / "labels" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val" / "one.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("val: images/val\nnames: [thing]\n")
    result = _run("yolo2coco", tmp_path, tmp_path / "coco", "--splits", "val")
    assert result.returncode == 0, result.stderr
    assert str(images) in result.stdout
    content = json.loads((tmp_path / "coco" / "val.json").read_text())
    assert content["annotations"][0]["bbox"] == [24, 16, 48, 32]
    (tmp_path / "labels" / "val" / "one.txt").write_text("0 0.25 0.25 0.75 0.25 0.5 0.5\n")
    refused = _run("yolo2coco", tmp_path, tmp_path / "coco", "--splits", "val")
    assert refused.returncode == 2
    assert "one.txt, line 1: 7 values" in refused.stderr
    assert "--polygons" in refused.stderr
    result = _run("yolo2coco", tmp_path, tmp_path / "coco", "--splits", "val", "--polygons")
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "coco" / "val.json").read_text())
    assert content["annotations"][0]["bbox"] == [24, 16, 48, 16]
    (tmp_path / "labels" / "val" / "one.txt").write_text("0 0.9 0.5 0.5 0.5\n")
    refused = _run("yolo2coco", tmp_path, tmp_path / "coco", "--splits", "val")
    assert refused.returncode == 2 and "--clip" in refused.stderr
    result = _run("yolo2coco", tmp_path, tmp_path / "coco", "--splits", "val", "--clip")
    assert result.returncode == 0 and "clipped to it: 1 (in labels/val/one.txt)" in result.stderr


def test_wrong_arguments(made):
    json_file, images = _sound(made)
    assert _run().returncode == 2
    assert _run("check", json_file, json_file, "--images", images, "--fix", "x.json").returncode == 2
    assert "--fix needs --images" in _run("check", json_file, "--fix", "x.json").stderr
    missing = _run("check", json_file.with_name("gone.json"), "--images", images)
    assert missing.returncode == 2
    assert "gone.json" in missing.stderr


@pytest.mark.parametrize("command", ["--help", "synthetic", "check", "subset", "summary"])
def test_no_command_line_needs_torch(made, tmp_path, command):
    json_file, images = _sound(made)
    arguments = {
        "--help": ["--help"],
        "synthetic": ["synthetic", tmp_path / "set", "--size", 48, "--train", 1, "--val", 0, "--test", 0],
        "check": ["check", json_file, "--images", images],
        "subset": ["subset", json_file, tmp_path / "small.json", "--count", 1],
        "summary": ["summary", json_file],
    }[command]
    script = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'detectron2', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command_line = [sys.executable, "-c", script, str(_TOOL), *map(str, arguments)]
    result = subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
