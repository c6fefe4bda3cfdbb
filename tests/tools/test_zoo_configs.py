"""Configs of somebody who knows Detectron2 by heart: the model zoo's files, a few values changed, trained."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ENVIRONMENT, ROOT, TOOL, call, lines, succeed

CONFIGS = TEST_CONFIGS / "zoo"
LOSSES = {
    "retinanet": {"loss_cls", "loss_box_reg"},
    "fcos": {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"},
    "faster_rcnn": {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"},
}


def arguments(name: str, output: Path) -> list[str]:
    return ["--config-file", str(CONFIGS / f"{name}.py"), "train.device=cpu", f"train.output_dir={output}"]


@pytest.mark.parametrize(
    "name", [name if name == "retinanet" else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]
)
def test_it_trains_evaluates_and_leaves_a_run(name, train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(train_data))
    output = tmp_path / "run"
    succeed(*arguments(name, output))
    written = lines(output)
    assert [line["iteration"] for line in written] == [0, 1, 2, 3]
    assert {key for key in written[0] if key.startswith("loss_")} == LOSSES[name]
    assert [line["iteration"] for line in written if "bbox/AP" in line] == [1, 3]
    assert json.loads((output / "run.json").read_text())["status"] == "finished"
    # Detectron2's one split is called test.
    metrics = json.loads((output / "test_metrics.json").read_text())
    assert "coco/bbox_mAP" in metrics and metrics["iteration"] in (1, 3)
    assert (output / "predictions" / "test" / "coco_instances_results.json").is_file()

    # What was saved is the run's own config, and builds the same model.
    saved = LazyConfig.load(str(output / "config.yaml"))
    assert saved.dataloader.evaluator.dataset_name == "scenes_val" and saved.train.max_iter == 4
    again = tmp_path / "again.json"
    words = ["--eval-only", "--checkpoint", str(output / "model_best.pth"), "--split", "test", "--output-json", again]
    succeed("--config-file", str(output / "config.yaml"), *map(str, words), f"train.output_dir={tmp_path / 'again'}")
    assert json.loads(again.read_text())["coco/bbox_mAP_50"] == metrics["coco/bbox_mAP_50"]


@pytest.mark.slow
def test_two_processes_train_it_too(train_data, tmp_path):
    output = tmp_path / "run"
    environment = {**ENVIRONMENT, "DETECTRON2_DATASETS": str(train_data)}
    command = [sys.executable, str(TOOL), *arguments("fcos", output), "--num-gpus", "2", "train.max_iter=2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line["iteration"] for line in lines(output)] == [0, 1]


@pytest.mark.subset
def test_masks_that_are_left_in_are_said(train_data, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(train_data))
    config = tmp_path / "masks.py"
    config.write_text(
        "from .zoo.scenes import dataloader, lr_multiplier, optimizer, train\n"
        "from detectron2.model_zoo import get_config\n"
        'model = get_config("common/models/mask_rcnn_fpn.py").model\n'
        "model.roi_heads.num_classes = 6\n"
    )
    (tmp_path / "zoo").symlink_to(CONFIGS)
    status, stderr = call("--config-file", str(config), "train.device=cpu", f"train.output_dir={tmp_path / 'run'}")
    assert status == 1
    assert "detectron2.modeling.roi_heads.MaskRCNNConvUpsampleHead is not part of the embedded subset" in stderr


@pytest.fixture(scope="module")
def installed_detectron2():
    """Skips where there is none, before anything is trained."""
    environment = {**ENVIRONMENT, "LORADET_DETECTRON2": "installed"}
    if subprocess.run([sys.executable, "-c", "import loradet"], env=environment, capture_output=True).returncode:
        pytest.skip("no Detectron2 is installed beside the embedded one (docs/install.md says how)")


@pytest.mark.installed
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.usefixtures("installed_detectron2")
def test_both_detectron2s_have_the_same_losses(name, train_data, tmp_path):
    """The first weights of a seed are the same, and so is what follows."""
    found = {}
    for which in ("embedded", "installed"):
        environment = {**ENVIRONMENT, "DETECTRON2_DATASETS": str(train_data), "LORADET_DETECTRON2": which}
        command = [sys.executable, str(TOOL), *arguments(name, tmp_path / which)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[which] = lines(tmp_path / which)
    for ours, theirs in zip(*found.values(), strict=True):
        for key in LOSSES[name] | {"total_loss", "lr"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key
    weights = [torch.load(tmp_path / which / "model_final.pth", weights_only=True)["model"] for which in found]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-4, atol=1e-5)
