import sys

import pytest
import torch
from torch import nn

from loradet.benchmarks import lora_memory


def test_what_is_kept_and_the_step_are_compared_after_equality_was_asserted(capsys):
    lora_memory.main(["--model", "test_convnext", "--size", "64", "--memory", "least", "--pairs", "2"])
    printed = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert float(printed["largest_difference"]) <= 1e-6
    assert float(printed["kept_mib"]) < 0.6 * float(printed["against_kept_mib"])
    assert printed["pairs"] == "2" and float(printed["median_ratio"]) > 0


def test_sides_that_compute_something_else_are_not_timed():
    ours, theirs = (lora_memory.adapted("test_convnext", ["mlp.fc1"], memory) for memory in ("lean", "plain"))
    with torch.no_grad():
        next(p for n, p in theirs.named_parameters() if n.endswith("lora_b")).mul_(1.5)
    with pytest.raises(RuntimeError, match=r"lora_[ab]: gradients differ by"):
        lora_memory.largest_difference(ours, theirs, torch.randn(1, 3, 64, 64))


def test_peft_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="--against peft: install it first"):
        lora_memory.with_peft("test_convnext", ["mlp.fc1"], nn.Module())
