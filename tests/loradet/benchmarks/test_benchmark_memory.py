"""Peak memory of training, in processes of their own."""

import json
import sys

import pytest
from helpers.benchmark_tool import DETR, RANDOM, tool

from loradet.benchmarks.memory import compare_memory, training_memory

WIDTH, HIDDEN, LAYERS = 16, 50_000, 3


def run_tool(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "memory", *words])
    tool.main()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak is that of the whole process")
@pytest.mark.slow
def test_it_counts_weights_gradients_and_moments_and_nothing_that_another_process_holds(tmp_path, monkeypatch, capsys):
    file, held = tmp_path / "figures.json", bytearray(b"x") * (1500 * 2**20)
    other = ["--against", DETR, "--against-overrides", f"model.transformer.dim_feedforward={HIDDEN}"]
    run_tool(monkeypatch, "--config-file", DETR, *RANDOM, "--json", str(file), *other)
    figures, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert all(name in shown for name in figures)
    assert (figures["steps"], figures["images"], figures["device"]) == (3, 4, "cpu")
    for side in ("", "against_"):
        peak, before = figures[f"{side}peak_mb"], figures[f"{side}before_model_mb"]
        assert len(held) / 2**20 > peak > before > 100
        assert figures[f"{side}training_mb"] == pytest.approx(peak - before)
    # Four floats a parameter; activations of the wide layers, and what their kernels need, come on top.
    least = LAYERS * 2 * WIDTH * HIDDEN * 16 / 2**20
    assert least < figures["against_training_mb"] - figures["training_mb"] < 4 * least


def test_results_of_two_are_set_side_by_side():
    ours = {"peak_mb": 300.0, "before_model_mb": 100.0, "training_mb": 200.0, "steps": 3, "device": "cpu"}
    theirs = {"peak_mb": 600.0, "before_model_mb": 200.0, "training_mb": 400.0, "steps": 3, "device": "cpu"}
    assert compare_memory(ours, theirs) == {
        **ours,
        "against_peak_mb": 600.0,
        "against_before_model_mb": 200.0,
        "against_training_mb": 400.0,
        "peak_ratio": 0.5,
        "training_ratio": 0.5,
    }


def test_one_step_is_too_few():
    with pytest.raises(ValueError, match="steps=1: at least 2"):
        training_memory(DETR, steps=1)


@pytest.mark.slow
def test_a_mistake_in_the_config_is_one_line(monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: .*tiny_detr\.py: .*no_such_key") as stop:
        run_tool(monkeypatch, "--config-file", DETR, "model.no_such_key=1")
    assert "\n" not in stop.value.code


@pytest.mark.slow
def test_a_process_that_is_ended_is_one_line(tmp_path, monkeypatch):
    file = tmp_path / "ended.py"
    file.write_text("import os\n\nos._exit(9)\n")
    with pytest.raises(SystemExit, match=r"^error: The process that measured .*ended\.py was ended from outside"):
        run_tool(monkeypatch, "--config-file", str(file))
