"""The benchmark of presets: figures of each, against `basic`."""

import json

import pytest
from detectron2.data import DatasetCatalog
from helpers.paths import TEST_CONFIGS

from loradet.cli import benchmark
from loradet.datasets.synthetic import generate


@pytest.fixture(autouse=True)
def _forget_data():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)


def test_figures(tmp_path, capsys):
    root = generate(tmp_path / "data", size=(48, 64), counts={"train": 4})
    words = ["augment", "--config-file", str(TEST_CONFIGS / "tiny.py"), f"data.root={root}", "--pairs", "6"]
    benchmark.main([*words, "--presets", "lsj", "photometric", "--json", str(tmp_path / "a.json")])
    assert "samples_per_s" in capsys.readouterr().out
    figures = json.loads((tmp_path / "a.json").read_text())
    assert list(figures) == ["lsj", "photometric"]
    assert figures["lsj"]["pixels_over_basic"] == 64 * 64 / (48 * 64)
    assert figures["photometric"]["pixels_over_basic"] == 1
    assert all(one["samples_per_s"] > 0 and one["pairs"] == 6 and one["threads"] == 1 for one in figures.values())
    with pytest.raises(SystemExit, match="no such preset; expected one of basic, multi_scale"):
        benchmark.main([*words, "--presets", "jitter"])
