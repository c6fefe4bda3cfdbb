"""The training tool on DETR."""

import json

from train_tool import ROOT, arguments, succeed

from loradet.adapters import read_adapter

CONFIG = ROOT / "tests" / "tiny_detr_config.py"


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
