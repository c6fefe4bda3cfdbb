"""Figures of a config's parts, and the table of finished runs."""

import json
import math

import pytest
from helpers.paths import TEST_CONFIGS

from loradet.benchmarks.parts import benchmark
from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.experiments.pages.compare_runs import comparison
from loradet.training.run import train

CONFIG = str(TEST_CONFIGS / "tiny.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "sar"
    return generate(root, size=64, counts={"train": 12, "val": 3, "test": 2}, seed=0)


def config(data, *overrides):
    return load_config(CONFIG, [f"data.root={data}", "dataloader.train.num_workers=0", *overrides])


@pytest.mark.parametrize("part", ["train", "infer", "loader", "eval"])
def test_every_part_gives_its_figures(data, part):
    result = benchmark(config(data), part, steps=2, warmup=1)
    assert result["steps"] == 2
    assert result["s/iter"] > 0
    images = {"train": 4, "infer": 1, "loader": 4, "eval": 3}[part]
    assert result["images/s"] == pytest.approx(images / result["s/iter"])
    assert result["peak_memory_mb"] > 0
    assert ("data_wait_fraction" in result) == (part == "train")


def test_bare_loop_is_interleaved_and_compared(data):
    result = benchmark(config(data, "train.accumulate=2"), "train", steps=3, warmup=1, bare=True)
    assert result["pairs"] == 3
    assert result["enough_pairs"] is False
    assert result["median_ratio"] > 0
    assert result["bare_s_per_iter"] > 0


@pytest.mark.parametrize(
    ("part", "bare", "message"), [("tran", False, "train, infer"), ("eval", True, "training steps")]
)
def test_wrong_parts_are_errors(data, part, bare, message):
    with pytest.raises(ValueError, match=message):
        benchmark(config(data), part, bare=bare)


def test_table_has_a_column_for_each_run(data, tmp_path):
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, folder in enumerate(runs):
        train(config(data, f"train.output_dir={folder}", "train.max_iter=2", f"train.seed={seed}"))
    table = comparison(runs)
    header = table.splitlines()[0].split()
    assert header == ["first", "second"]
    record = json.loads((runs[0] / "run.json").read_text())
    total = record["parameters"]["all"]["total"]
    assert f"{total / 1e6:.3f}" in table
    assert "AP50 (val)" in table
    size = (runs[0] / "adapter.safetensors").stat().st_size
    assert f"{size / 1e6:.2f} MB" in table
    metrics = json.loads((runs[0] / "val_metrics.json").read_text())
    assert math.isfinite(metrics["coco/bbox_mAP"])
    (runs[0] / "run.json").write_text(json.dumps({**record, "wall_time_s": 119.6}))
    assert "2 min 0 s" in comparison(runs)


def test_unfinished_runs_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match=r"no run\.json"):
        comparison([tmp_path])
    (tmp_path / "run.json").write_text('{"status": "interrupted"}')
    with pytest.raises(ValueError, match=r"status: interrupted.*--resume"):
        comparison([tmp_path])
    (tmp_path / "run.json").write_text('{"status": ')
    with pytest.raises(ValueError, match="cut short"):
        comparison([tmp_path])
