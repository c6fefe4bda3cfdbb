"""Speed of inference and its parts, on models and loaders whose times are known."""

import time

import pytest
import torch
from helpers.paths import TEST_CONFIGS
from torch import nn

from loradet.benchmarks.parts import benchmark
from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.evaluation.throughput import measure_inference

CONFIG = str(TEST_CONFIGS / "tiny.py")
DATA, FORWARD, POST = 0.004, 0.012, 0.008


class Slow(nn.Module):
    """A layer that takes its time, called twice, and a post-processing that does."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(1, 1)
        self.first, self.last = nn.Conv2d(3, 1, kernel_size=1), nn.Linear(1, 1)
        self.calls = 0

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        self.calls += 1
        for record in batch:
            self.first(record["image"][None])
        for _ in range(2):
            time.sleep(FORWARD / 2)
            self.last(torch.ones(1))
        time.sleep(POST)


class SlowLoader:
    def __init__(self, sizes):
        self.sizes = sizes

    def __iter__(self):
        for batch in self.sizes:
            time.sleep(DATA)
            yield [{"image": torch.zeros(3, *size)} for size in batch]


def test_time_is_split_where_it_is_spent():
    model = Slow().train()
    found = measure_inference(model, SlowLoader([[(8, 12), (10, 6)], [(20, 10), (4, 4)]]), steps=7, warmup=2)
    result = found.to_dict()
    assert model.calls == 9 and model.training
    # Sleeping takes as long as asked for, or longer on a busy machine: the shortest of the steps tells.
    for part, seconds in (("data", DATA), ("forward", FORWARD), ("postprocessing", POST)):
        assert seconds <= min(found.seconds[part]) < seconds + 0.1, part
    total = sum(map(sum, found.seconds.values()))
    assert result["images/s"] == pytest.approx(14 / total)
    assert result["images/s without data"] == pytest.approx(14 / (total - sum(found.seconds["data"])))
    assert sum(result[f"{part}_share"] for part in found.seconds) == pytest.approx(1)
    assert (result["steps"], result["batch"], result["device"]) == (7, 2, "cpu")
    assert (result["smallest_image"], result["largest_image"]) == ([4, 4], [20, 10])
    assert result["peak_memory_mb"] > 0
    assert not model.last._forward_hooks and not model.first._forward_hooks


def test_a_model_without_layers_is_all_forward():
    class Empty(nn.Module):
        def forward(self, _):
            time.sleep(POST)

    found = measure_inference(Empty(), SlowLoader([[(4, 4)]]), steps=2, warmup=1)
    assert found.seconds["postprocessing"] == [0, 0]
    assert min(found.seconds["forward"]) >= POST


@pytest.mark.parametrize(("sizes", "steps", "warmup"), [([], 2, 1), ([[(4, 4)]], 0, 1), ([[(4, 4)]], 1, 0)])
def test_what_cannot_be_measured(sizes, steps, warmup):
    with pytest.raises(ValueError, match=r"no batch|expected 1"):
        measure_inference(Slow(), SlowLoader(sizes), steps=steps, warmup=warmup)


def test_of_a_config(tmp_path):
    root = generate(tmp_path / "data", size=64, counts={"train": 4, "val": 3, "test": 2}, seed=0)
    config = load_config(CONFIG, [f"data.root={root}", "train.device=cpu"])
    result = benchmark(config, "throughput", steps=4, warmup=1)
    assert result["steps"] == 4 and result["batch"] == 1
    assert result["images/s"] > 0
    assert result["forward_s"] > 0 and result["postprocessing_s"] > 0 and result["data_s"] > 0
    assert result["largest_image"] == [64, 64]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_cuda_post_processing_is_waited_for():
    class Heavy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4096, 4096)

        def forward(self, batch):
            x = batch[0]["image"].to(self.layer.weight.device).flatten()[:16].new_ones(4096, 4096)
            x = self.layer(x)
            for _ in range(20):  # four times the work of the layer, and not yet done when Python is
                x = x @ x * 1e-4

    found = measure_inference(Heavy().cuda(), SlowLoader([[(8, 8)]]), steps=10, warmup=3).to_dict()
    assert found["postprocessing_s"] > 3 * found["forward_s"]
    assert found["peak_memory_mb"] > 4096**2 * 4 / 2**20
    assert found["device"] == torch.cuda.get_device_name()
