"""The benchmark of pixels: figures of both mappers, and no time of mappers that differ."""

import json

import pytest

from loradet.benchmarks import pixels
from loradet.benchmarks.pixels import KINDS, Kind, benchmark_pixels
from loradet.cli import benchmark
from loradet.cli import benchmark_pixels as command
from loradet.datasets.mapper import DetectionMapper

SMALL = {"jpeg": Kind((90, 120), "jpg", 1.6, 92), "png": Kind((60, 80), "png", 1.6)}


def test_figures_of_both_mappers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pixels, "KINDS", SMALL)
    words = ["pixels", "--short-edge", "60", "--files", "2", "--pairs", "3", "--json", str(tmp_path / "figures.json")]
    for kind, image in (("jpeg", "120x90 jpg"), ("png", "80x60 png")):
        benchmark.main([*words, "--kind", kind])
        figures = json.loads((tmp_path / "figures.json").read_text())[kind]
        assert figures["our_samples_per_s"] > 0 and figures["detectron2_samples_per_s"] > 0
        assert figures["ratio_lower_quartile"] <= figures["median_ratio"] <= figures["ratio_upper_quartile"]
        assert (figures["image"], figures["pairs"], figures["threads"]) == (image, 3, 1)
        assert figures["values_one_level_apart"] <= pixels.MOST_DIFFERENT
        assert "median_ratio" in capsys.readouterr().out


def test_pixels_that_differ_end_it(monkeypatch):
    class Brighter(DetectionMapper):
        def read_image(self, file_name, format):
            return super().read_image(file_name, format) // 2

    monkeypatch.setattr(pixels, "KINDS", SMALL)
    monkeypatch.setattr(pixels, "DetectionMapper", Brighter)
    with pytest.raises(RuntimeError, match=r"values differ, by \d+ at most.*No time"):
        benchmark_pixels("png", short_edge=40, files=1, pairs=1)


def test_the_command_offers_every_kind():
    assert tuple(KINDS) == command.KINDS


def test_options_that_make_no_sense(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["pixels", "--pairs", "0"])
    assert "at least 1" in capsys.readouterr().err
