"""The same configs, tools and files on an installed Detectron2 and on the embedded one, with the same numbers.

A process has one Detectron2, so each side is a process of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.train_tool import CONFIG, ENVIRONMENT, ROOT, TOOL, arguments, lines, start, wait_for

from loradet.datasets.synthetic import generate

QUICKSTART = ROOT / "configs" / "quickstart.py"
SIDES = ("embedded", "installed")

pytestmark = pytest.mark.installed


def other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    environment = {**os.environ, "LORADET_DETECTRON2": "installed"}
    done = subprocess.run([sys.executable, "-c", "import loradet"], env=environment, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no Detectron2 is installed beside the embedded one (docs/install.md says how)")
    # Both sides get their copies of annotation files from one cache, as one user's runs do.
    ENVIRONMENT["LORADET_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del ENVIRONMENT["LORADET_CACHE"]


def tool(side: str, *args: object) -> None:
    command = [sys.executable, str(TOOL), *map(str, args)]
    environment = {**ENVIRONMENT, "LORADET_DETECTRON2": side}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("small"), size=64, counts={"train": 12, "val": 6, "test": 2})


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    """A whole run of the tiny detector on each side."""
    folders = {side: tmp_path_factory.mktemp(side) / "run" for side in SIDES}
    for side, folder in folders.items():
        tool(side, *arguments(small_data, folder))
    return folders


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """The first 50 lines of the quickstart's metrics.json on each side."""
    data = generate(tmp_path_factory.mktemp("scenes"), size=192, counts={"train": 80, "val": 10, "test": 1})
    found = {}
    for side in SIDES:
        folder = tmp_path_factory.mktemp(f"quickstart_{side}") / "run"
        words = ["train.max_iter=50", "train.eval_period=0", "train.checkpointer.period=0", "train.log_period=1"]
        tool(side, *arguments(data, folder, *words, config=QUICKSTART))
        found[side] = lines(folder)
    return found


def test_first_losses_of_the_quickstart(losses):
    embedded, installed = losses["embedded"], losses["installed"]
    values = [{k: v for k, v in line.items() if "loss" in k} for line in embedded if "total_loss" in line]
    assert len(values) == 50 and len(values[0]) > 2
    others = [{k: v for k, v in line.items() if "loss" in k} for line in installed if "total_loss" in line]
    assert others == [pytest.approx(line, rel=1e-6) for line in values]


def test_ap_of_the_quickstart(losses):
    ap = [{k: v for k, v in losses[side][-1].items() if k.startswith("bbox/")} for side in SIDES]
    assert ap[0] and ap[0] == pytest.approx(ap[1], abs=1e-6, nan_ok=True)


def test_run_json_says_which(trained):
    versions = {side: json.loads((folder / "run.json").read_text())["versions"] for side, folder in trained.items()}
    assert versions["embedded"]["detectron2"].startswith("embedded 0.6")
    assert versions["installed"]["detectron2"].startswith("installed 0.6")


@pytest.mark.parametrize("file", ["model_best.pth", "adapter.safetensors"])
@pytest.mark.parametrize("side", SIDES)
def test_weights_of_one_are_evaluated_by_the_other(side, file, small_data, trained, tmp_path):
    metrics = []
    for reader in (side, other(side)):
        path = tmp_path / f"{reader}.json"
        words = ["--eval-only", "--checkpoint", trained[side] / file, "--split", "val", "--output-json", path]
        tool(reader, *words, *arguments(small_data, tmp_path / reader, "model.test_score_thresh=0.0"))
        metrics.append({k: v for k, v in json.loads(path.read_text()).items() if k.startswith("coco/")})
    assert metrics[0]["coco/bbox_mAP"] is not None
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("side", SIDES)
def test_a_killed_run_goes_on_under_the_other(side, small_data, trained, tmp_path):
    folder = tmp_path / "run"
    words = [*arguments(small_data, folder), "train.max_iter=8"]
    process = start(*words, LORADET_DETECTRON2=side)
    wait_for(lambda: (folder / "model_0000003.pth").exists(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    tool(other(side), "--resume", *words)
    ours, theirs = lines(folder), lines(trained[side])
    assert [line["iteration"] for line in ours] == [line["iteration"] for line in theirs]
    for line, expected in zip(ours, theirs):
        for key in (k for k in expected if "loss" in k):
            assert line[key] == pytest.approx(expected[key], rel=1e-5), (line["iteration"], key)


@pytest.mark.parametrize("side", SIDES)
def test_config_yaml_of_one_is_read_by_the_other(side, trained, tmp_path):
    shutil.copytree(trained[side], tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    tool(other(side), "--config-file", config, f"train.output_dir={tmp_path / 'again'}", "train.max_iter=2")
    weights = [torch.load(f / "model_final.pth", weights_only=True) for f in (trained[side], tmp_path / "again")]
    assert weights[0]["model"].keys() == weights[1]["model"].keys()


@pytest.mark.parametrize("config", [CONFIG, str(QUICKSTART)])
def test_two_processes(config, small_data, tmp_path):
    words = ["--num-gpus", 2, "train.max_iter=4", "train.eval_period=2"]
    tool("installed", *arguments(small_data, tmp_path / "run", *words, config=config))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert "coco/bbox_mAP" in json.loads((Path(tmp_path) / "run" / "val_metrics.json").read_text())
