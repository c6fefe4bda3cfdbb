"""The benchmark of a detector of transformers compares equal steps."""

import pytest
import torch
from helpers.library_detectors import OPTIONS, OWN, needs_transformers

from loradet.benchmarks import library_step

pytestmark = needs_transformers
SMALL = OPTIONS["d_fine"] | OWN["d_fine"]


def test_figures_of_both_sides_and_steps_that_differ_are_refused(monkeypatch):
    figures = library_step.benchmark_step(options=SMALL, size=64, pairs=2, warmup=0)
    assert figures["ours_s"] > 0 and figures["library_s"] > 0
    assert 0.2 < figures["median_ratio"] < 5 and figures["pairs"] == 2
    build = library_step._library_model

    def other(detector):
        library = build(detector)
        with torch.no_grad():
            library.model.enc_score_head.bias.add_(1.0)
        return library

    monkeypatch.setattr(library_step, "_library_model", other)
    with pytest.raises(RuntimeError, match="The losses of one step differ"):
        library_step.benchmark_step(options=SMALL, size=64, pairs=1, warmup=0)


def test_numbers_under_one_are_refused(capsys):
    with pytest.raises(SystemExit):
        library_step.main(["--pairs", "0"])
    assert "--pairs 0: expected at least 1" in capsys.readouterr().err
