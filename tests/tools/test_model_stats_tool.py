"""tools/model_stats.py as a user runs it."""

import json
import runpy
import sys

import pytest
from helpers.paths import ROOT, TEST_CONFIGS

from loradet.backbones import timm_factory

TOOL = str(ROOT / "tools/model_stats.py")


def run(monkeypatch, *words: str) -> int | str | None:
    """The tool in this process; what it leaves by."""
    monkeypatch.setattr(sys, "argv", [TOOL, *words])
    try:
        runpy.run_path(TOOL, run_name="__main__")
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_pretrained_backbone_is_counted_without_data_set_and_weights(monkeypatch, capsys, tmp_path):
    # Its bottom_up is convnext_small with pretrained=True, inside freeze and lora; the config knows 6 classes.
    config = str(ROOT / "configs/sar_lora_dino/e0002_lora_r16_fc1fc2.py")
    monkeypatch.setattr(timm_factory, "_check_reachable", lambda *_: pytest.fail("weights asked for"))
    assert run(monkeypatch, config, "--input-size", "64", "96", "--json", str(tmp_path / "stats.json")) == 0
    counts, printed = json.loads((tmp_path / "stats.json").read_text()), capsys.readouterr().out
    assert counts["parameters"]["all"]["trainable"] == pytest.approx(11.569e6, abs=500)
    assert counts["parameters"]["neck"]["trainable"] == pytest.approx(4.475e6, abs=500)
    assert counts["input_size"] == [64, 96] and counts["flops"]["all"] > 1e9
    for part, flops in counts["flops"].items():
        row = next(line.split() for line in printed.splitlines() if line.startswith(part))
        assert float(row[1]) == pytest.approx(counts["parameters"][part]["trainable"] / 1e6, abs=5.1e-4)
        assert float(row[3]) == pytest.approx(flops / 1e9, abs=5.1e-4)
    assert "One multiply-add is one FLOP" in printed


def test_the_configs_own_size_is_the_default_and_overrides_apply(monkeypatch, capsys):
    config = str(TEST_CONFIGS / "tiny.py")
    assert run(monkeypatch, config, "data.image_size=96", "data.max_size=160", "model.num_classes=2") == 0
    assert "96x160 pixels" in capsys.readouterr().out


def test_mistakes_are_one_line(monkeypatch, capsys):
    config = str(ROOT / "configs" / "custom_coco.py")
    stopped = run(monkeypatch, config, "data.root=/nowhere")
    assert stopped.startswith("error: ") and "\n" not in stopped
    assert "/nowhere/annotations/train.json" in stopped and "model.num_classes=" in stopped
    stopped = run(monkeypatch, config, "model.num_classes=2", "dataloader.val.mapper.augmentations=[]")
    assert stopped.startswith("error: ") and "--input-size" in stopped
    assert capsys.readouterr().out == ""
