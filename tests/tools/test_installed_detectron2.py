"""The same configs and tools on an installed Detectron2, unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loradet.datasets.synthetic import generate

ROOT = Path(__file__).parents[2]
INSTALLED = {**os.environ, "LORADET_DETECTRON2": "installed", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

pytestmark = pytest.mark.installed


@pytest.fixture(scope="module", autouse=True)
def installed():
    done = subprocess.run([sys.executable, "-c", "import loradet"], env=INSTALLED, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no Detectron2 is installed beside the embedded one (docs/install.md says how)")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("config", ["tests/tiny_config.py", "configs/quickstart.py"])
def test_training_runs_from_the_same_config(tmp_path, config, processes):
    data = generate(tmp_path / "data", size=64, counts={"train": 8, "val": 3, "test": 2})
    output = tmp_path / "run"
    command = [sys.executable, "tools/lazyconfig_train_net.py", "--config-file", config, "--num-gpus", str(processes)]
    overrides = [f"data.root={data}", f"train.output_dir={output}", "train.max_iter=4", "train.eval_period=2"]
    environment = {**INSTALLED, "LORADET_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["versions"]["detectron2"].startswith("installed ")
    assert "coco/bbox_mAP" in json.loads((output / "val_metrics.json").read_text())
