"""What a user has after `pip install loradet-*.whl`, in an empty folder: configs, studies, the command, a training."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers.paths import ROOT

import detectron2_embedded

SOURCES = ("projects", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")

pytest.importorskip("setuptools", reason="setuptools is not installed: no wheel can be built here")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel's content in a folder of packages."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        source = ROOT / name
        copy = folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=ignored)
        else:
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(source, copy)
    build = "import setuptools.build_meta as b; b.build_wheel('../dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (folder / "dist").glob("loradet-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def run(site, tmp_path_factory):
    """Runs `loradet …` of the wheel in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    environment = {**os.environ, "PYTHONPATH": str(site), "LORADET_CACHE": str(folder / "cache")}

    def command(*words):
        call = [sys.executable, "-m", "loradet.cli", *words]
        done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    command.folder = folder
    return command


def test_configs_are_in_it(site, run):
    files = sorted(
        file.relative_to(ROOT) for file in (ROOT / "configs").rglob("*.*") if "__pycache__" not in file.parts
    )
    assert all((site / "loradet" / file).is_file() for file in files)
    assert "quickstart.py" in run("configs") and str(site) in run("env").splitlines()[0]


def test_it_says_that_it_has_types_and_for_which_pythons(site):
    assert (site / "loradet" / "py.typed").is_file()
    (metadata,) = site.glob("loradet-*.dist-info/METADATA")
    fields = metadata.read_text(encoding="utf-8").partition("\n\n")[0]
    (wanted,) = re.findall(r"^Requires-Python: (.*)$", fields, re.MULTILINE)
    named = re.findall(r"^Classifier: Programming Language :: Python :: (3\.\d+)$", fields, re.MULTILINE)
    assert named == ["3.10", "3.11", "3.12", "3.13", "3.14"] and set(wanted.split(",")) == {">=3.10", "<3.15"}
    assert "Classifier: Typing :: Typed" in fields


def test_a_copied_config_trains_and_is_evaluated(run):
    run("data", "synthetic", "scenes", "--size", "64", "--train", "4", "--val", "2", "--test", "0")
    run("copy", "quickstart", "mine")
    sizes = ["data.root=scenes", "data.image_size=64", "data.max_size=64", "data.total_batch_size=2"]
    steps = ["train.max_iter=2", "train.eval_period=2", "train.device=cpu", "dataloader.train.num_workers=0"]
    run("train", "--config-file", "mine/quickstart.py", "--output", "out", *sizes, *steps)
    assert json.loads((run.folder / "out" / "run.json").read_text())["status"] == "finished"
    run("evaluate", "--config-file", "out/config.yaml", "--split", "val", "--output-json", "again.json")
    again, first = (json.loads((run.folder / file).read_text()) for file in ("again.json", "out/val_metrics.json"))
    assert again["coco/bbox_mAP"] == first["coco/bbox_mAP"]


@pytest.mark.slow
def test_studies_are_in_it(run):
    assert "mini_r16_fc1fc2" in run("study", "--study", "sar_lora_dino/mini", "list")
    commands = run("study", "--study", "sar_lora_dino/mini", "run", "mini_probe", "--dump-commands").splitlines()
    assert any("-m loradet.cli train --config-file configs/sar_lora_dino/mini/linear_probe.py" in c for c in commands)


@pytest.mark.skipif("site-packages" in detectron2_embedded.__file__, reason="loradet is not installed from a clone")
def test_a_clone_has_its_own_configs():
    from loradet.config.library import LIBRARY

    assert LIBRARY == ROOT / "configs"
