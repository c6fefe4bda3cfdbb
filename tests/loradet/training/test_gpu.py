"""Training on a CUDA device; skipped where there is none."""

import json

import pytest
import torch
from helpers.paths import TEST_CONFIGS

from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.training.batches import images_to_device
from loradet.training.folder.metrics_log import read_lines
from loradet.training.plan import plan_batch
from loradet.training.prepare import build_loader
from loradet.training.run import train

CONFIG = str(TEST_CONFIGS / "tiny.py")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "sar", size=64, counts={"train": 16, "val": 4, "test": 2})


@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_auto_device_trains_on_cuda(data, tmp_path, amp):
    overrides = [f"data.root={data}", f"train.output_dir={tmp_path}", "train.max_iter=20", "train.eval_period=0"]
    if amp:
        overrides += ["train.amp.enabled=True", f"train.amp.dtype={amp}"]
    assert train(load_config(CONFIG, overrides)) is None  # no signal has ended it
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["device"] == torch.cuda.get_device_name()
    assert record["peak_memory_mb"] > 0
    losses = [line["total_loss"] for line in read_lines(tmp_path / "metrics.json") if "total_loss" in line]
    assert losses[-1] < losses[0]


def test_gpu_and_cpu_agree_on_the_first_losses(data, tmp_path):
    first = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        settings = [f"train.output_dir={folder}", f"train.device={device}", "train.max_iter=1", "train.eval_period=0"]
        # No dropout: its masks come from another generator on each device.
        train(load_config(CONFIG, [f"data.root={data}", *settings, "model.backbone.bottom_up.dropout=0.0"]))
        first[device] = next(line for line in read_lines(folder / "metrics.json") if "total_loss" in line)
    for name in ("loss_cls", "loss_box_reg"):
        assert first["cuda"][name] == pytest.approx(first["cpu"][name], rel=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_and_their_images_copied_to_the_device(data, tmp_path, workers):
    overrides = [f"data.root={data}", f"train.output_dir={tmp_path}", f"dataloader.train.num_workers={workers}"]
    plan = plan_batch(4, 1)
    pinned = next(iter(build_loader(load_config(CONFIG, overrides), plan)))
    plain = next(iter(build_loader(load_config(CONFIG, [*overrides, "train.device=cpu"]), plan)))
    on_device = images_to_device(pinned, torch.device("cuda"))
    for sample, copied, expected in zip(pinned, on_device, plain):
        assert sample["image"].is_pinned() and not expected["image"].is_pinned()
        assert copied["image"].is_cuda and not sample["image"].is_cuda
        assert torch.equal(copied["image"].cpu(), expected["image"])
        assert copied["image_id"] == expected["image_id"]
