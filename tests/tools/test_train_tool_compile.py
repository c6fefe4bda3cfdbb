"""A run whose steps are compiled, but for the compiler itself, leaves what a plain one leaves."""

import json

import pytest
import torch
from helpers.train_tool import CONFIG, arguments, succeed
from torch import nn
from torch._dynamo.utils import counters

from loradet.training import compiling

OF_ONE_SIZE = """
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from loradet import get_config

names = ("model", "data", "dataloader", "optimizer", "lr_multiplier", "train")
model, data, dataloader, optimizer, lr_multiplier, train = get_config({config!r}, *names)
dataloader.train.mapper.augmentations = [L(T.Resize)(shape=[64, 64])]
model.backbone.bottom_up.module.module.checkpoint = True
model.backbone.bottom_up.dropout = 0.0
"""


@pytest.mark.slow
def test_a_compiled_run_leaves_what_a_plain_one_leaves(train_data, tmp_path, monkeypatch):
    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compile_in_place(self, backend="eager", dynamic=False))
    monkeypatch.setattr(compiling, "_check_compiler", lambda _: None)
    file = tmp_path / "config.py"
    file.write_text(OF_ONE_SIZE.format(config=CONFIG))
    runs = {on: tmp_path / f"compiled_{on}" for on in (False, True)}
    for on, folder in runs.items():
        counters.clear()
        words = [f"train.compile.enabled={on}", "train.compile.what=model", "train.ema.enabled=True"]
        succeed(*arguments(train_data, folder, *words, "train.max_iter=4", config=file))
    torch.compiler.reset()
    assert counters["stats"]["unique_graphs"] == 2, "backbone and head, in training alone"
    losses, states, metrics = [], [], []
    for folder in runs.values():
        lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        losses.append([line["total_loss"] for line in lines if "total_loss" in line])
        states.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
        metrics.append({**json.loads((folder / "val_metrics.json").read_text()), "checkpoint": None})
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert list(states[1]) == list(states[0]) and metrics[1] == metrics[0]
    names = [{file.name for file in folder.iterdir() if "events" not in file.name} for folder in runs.values()]
    assert names[0] == names[1]
