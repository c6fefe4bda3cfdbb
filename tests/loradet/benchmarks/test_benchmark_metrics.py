"""The benchmark of metrics: figures of both sides, and no time of sides that differ."""

import json

import pytest

from loradet.benchmarks import metrics_sides
from loradet.benchmarks.metrics import PARTS, benchmark_metrics, metrics_memory
from loradet.cli import benchmark


@pytest.mark.parametrize("part", PARTS)
def test_figures_of_both_sides(part, tmp_path, capsys):
    words = ["--images", "6", "--detections", "30", "--classes", "4", "--pairs", "2"]
    benchmark.main(["metrics", "--part", part, *words, "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["our_s"] > 0 and figures["pycocotools_s"] > 0
    assert figures["ratio_lower_quartile"] <= figures["median_ratio"] <= figures["ratio_upper_quartile"]
    assert (figures["detections"], figures["pairs"], figures["enough_pairs"]) == (180, 2, False)
    assert "median_ratio" in capsys.readouterr().out


def test_peaks_of_both_sides_without_torch():
    figures = metrics_memory(images=6, detections=30, classes=4, pairs=1)
    assert 20 < figures["our_peak_mb"] < 200, "no torch in it"
    assert figures["peak_ratio"] == pytest.approx(figures["our_peak_mb"] / figures["pycocotools_peak_mb"])


def test_results_that_differ_end_it(monkeypatch):
    given = metrics_sides.our_metrics
    monkeypatch.setattr(metrics_sides, "our_metrics", lambda paths: {**given(paths), "coco/bbox_mAP": 0.123})
    with pytest.raises(RuntimeError, match=r"coco/bbox_mAP: 0\.123 here.*No time"):
        benchmark_metrics("metrics", images=4, detections=10, classes=2, pairs=1)


@pytest.mark.parametrize(
    ("words", "message"), [(["--pairs", "0"], "at least 1"), (["--memory", "--part", "bootstrap"], "--part metrics")]
)
def test_options_that_make_no_sense(words, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["metrics", *words])
    assert message in capsys.readouterr().err
