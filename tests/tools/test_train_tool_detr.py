"""The training tool on DETR."""

import json

import pytest
import torch
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import ROOT, arguments, succeed

from loradet.adapters import read_adapter
from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.training.folder.record import config_hash, run_identity

CONFIG = TEST_CONFIGS / "tiny_detr.py"


def test_a_run_leaves_what_every_run_leaves(train_data, tmp_path):
    output = tmp_path / "run"
    succeed(*arguments(train_data, output, "train.max_iter=2", "train.eval_period=2", config=CONFIG))
    lines = [json.loads(line) for line in (output / "metrics.json").read_text(encoding="utf-8").splitlines()]
    logged = {name for line in lines for name in line}
    assert {"loss_ce", "loss_bbox_0", "class_error", "cardinality_error_0", "bbox/AP"} <= logged
    step = next(line for line in lines if "total_loss" in line)
    assert abs(step["total_loss"] - sum(value for name, value in step.items() if name.startswith("loss_"))) < 1e-4
    assert "coco/bbox_mAP" in json.loads((output / "val_metrics.json").read_text(encoding="utf-8"))
    _, tensors = read_adapter(output / "adapter.safetensors")
    assert {"query_embed.weight", "class_embed.weight"} <= tensors.keys()
    backbone = [name for name in tensors if name.startswith("backbone.")]
    assert backbone
    assert all("lora_" in name for name in backbone)
    parts = json.loads((output / "run.json").read_text(encoding="utf-8"))["parameters"]
    assert parts["backbone"]["trainable"] == sum(tensors[name].numel() for name in backbone)


def test_a_run_of_no_step_leaves_weights_and_metrics(train_data, tmp_path):
    output = tmp_path / "run"
    words = arguments(train_data, output, "train.max_iter=0 epochs", config=CONFIG)
    succeed(*words)
    files = {"model_final.pth", "model_best.pth", "adapter.safetensors", "val_metrics.json"}
    assert files <= {path.name for path in output.iterdir()}
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert (run["status"], run["iteration"]) == ("finished", -1)
    final, best = (torch.load(output / f"model_{name}.pth", weights_only=True) for name in ("final", "best"))
    assert all(torch.equal(tensor, best["model"][name]) for name, tensor in final["model"].items())
    assert (final["iteration"], best["iteration"]) == (-1, -1)
    # What goes on from there starts at the first step.
    assert cut_off(output) == 0
    succeed(*words[:-1], "train.max_iter=2", "--resume")
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert (run["status"], run["iteration"]) == ("finished", 1)


def cut_off(output):
    """Make a finished run look interrupted; returns the iteration it goes on with."""
    run = json.loads((output / "run.json").read_text(encoding="utf-8"))
    (output / "run.json").write_text(json.dumps({**run, "status": "interrupted"}), encoding="utf-8")
    return run["iteration"] + 1


@pytest.mark.slow
def test_a_runs_own_config_is_that_run(train_data, tmp_path):
    output = tmp_path / "run"
    succeed(*arguments(train_data, output, "train.max_iter=1 epochs", "train.efficiency.enabled=True", config=CONFIG))
    run, metrics = ((output / name).read_bytes() for name in ("run.json", "val_metrics.json"))
    succeed("--config-file", str(output / "config.yaml"), "--resume")
    assert ((output / "run.json").read_bytes(), (output / "val_metrics.json").read_bytes()) == (run, metrics)
    assert config_hash(load_config(str(output / "config.yaml"), [])) != json.loads(run)["config_sha256"]
    # Where something else is asked for, it is another one.
    changed = load_config(str(output / "config.yaml"), ["optimizer.lr=0.5"])
    assert run_identity(changed, output) == config_hash(changed)


def test_the_config_that_learns_shapes(tmp_path):
    generate(tmp_path / "shapes", style="shapes", size=128, counts={"train": 8, "val": 2}, max_objects=3)
    words = ["train.max_iter=2", "dataloader.train.total_batch_size=4", "dataloader.train.num_workers=0"]
    config = ROOT / "configs" / "detr_shapes.py"
    succeed(*arguments(tmp_path / "shapes", tmp_path / "run", *words, config=config))
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["parameters"]["backbone"]["trainable"] == 0
    assert run["data"]["train"]["num_classes"] == 10
