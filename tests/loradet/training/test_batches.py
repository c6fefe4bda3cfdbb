"""Batches on the CPU stay as they are; those for CUDA are in test_gpu.py."""

import torch
from helpers.paths import TEST_CONFIGS

from loradet.config import load_config
from loradet.datasets.synthetic import generate
from loradet.training.batches import images_to_device
from loradet.training.plan import plan_batch
from loradet.training.prepare import build_loader


def test_on_the_cpu_nothing_is_pinned_or_copied(tmp_path):
    data = generate(tmp_path / "sar", size=64, counts={"train": 4, "val": 1, "test": 1})
    overrides = [f"data.root={data}", "train.device=cpu", "dataloader.train.num_workers=0"]
    loader = build_loader(load_config(str(TEST_CONFIGS / "tiny.py"), overrides), plan_batch(2, 1))
    assert not loader.pin_memory
    batch = next(iter(loader))
    assert not any(sample["image"].is_pinned() for sample in batch)
    assert images_to_device(batch, torch.device("cpu")) is batch
