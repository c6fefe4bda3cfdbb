"""Losses on a validation split: what they are, and that the training does not notice them."""

import random

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from helpers.small_models import BACKBONES, DETECTORS, batch, build, item

from loradet.training.hooks.validation_loss import ValidationLoss

BATCH = 2


def images(count: int) -> list[dict]:
    return [
        item(64, 64 - 16 * (i % 2), [[4 + i, 4, 30, 30], [20, 10 + i, 44, 50]], [i % 3, (i + 1) % 3], seed=i)
        for i in range(count)
    ]


def fresh(record: dict) -> dict:
    return record


def generators() -> list:
    kind, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()]


def everything(model: torch.nn.Module) -> dict:
    state = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    return state | {f"{name} trains": module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("regime", ["LoRA", "full"])
def test_the_model_and_the_generators_are_as_they_were(detector, regime):
    model = build(BACKBONES["ResNet"], detector, regime).train()
    with EventStorage() as storage:
        model(batch())  # moves a normalizer
        before, names = everything(model), set(storage.latest())
        normalizer = getattr(model, "loss_normalizer", None)
        state = generators()
        measure = ValidationLoss(images(3), fresh, batch_size=BATCH)
        first, second = measure.measure(model), measure.measure(model)
        assert generators() == state
        assert set(storage.latest()) == names
    after = everything(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(torch.as_tensor(before[name]), torch.as_tensor(after[name])) for name in before)
    assert getattr(model, "loss_normalizer", None) == normalizer
    assert first == second
    losses = {name: value for name, value in first.items() if name != "total_loss"}
    assert first["total_loss"] == pytest.approx(sum(losses.values()))
    assert all(np.isfinite(value) and value >= 0 for value in losses.values())


@pytest.mark.parametrize("detector", ["RetinaNet", "DETR"])
def test_losses_are_those_that_the_training_defines(detector):
    """Without dropout and batch norms a training step has the same ones; here worked out batch by batch."""
    model = build(BACKBONES["ConvNeXt"], detector, "full")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    data = images(5)
    sums: dict[str, float] = {}
    with EventStorage(), torch.no_grad():
        for start in range(0, len(data), BATCH):
            part = data[start : start + BATCH]
            if detector == "RetinaNet":
                model.loss_normalizer = 80.0 * len(part) / BATCH
            for name, value in model.train()(part).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(data)
    if detector == "RetinaNet":
        model.loss_normalizer = 80.0
    found = ValidationLoss(data, fresh, batch_size=BATCH).measure(model.train())
    assert found.pop("total_loss") == pytest.approx(sum(sums.values()), rel=1e-5)
    assert found == pytest.approx(sums, rel=1e-5)


def test_the_batch_size_does_not_move_retinanets(monkeypatch):
    """Its normalizer is of a batch of the training; with single images a share of it is taken."""
    model = build(BACKBONES["ConvNeXt"], "RetinaNet", "full").train()
    data = images(1) * 4  # as many boxes in each
    model.loss_normalizer = 200.0
    whole = ValidationLoss(data, fresh, batch_size=4).measure(model)
    ones = ValidationLoss(data, fresh, batch_size=4)
    monkeypatch.setattr(ones, "_loader", [[record] for record in data])
    assert ones.measure(model) == pytest.approx(whole, rel=1e-5)


def test_a_model_without_losses_is_told_once(caplog):
    class Silent(torch.nn.Module):
        def forward(self, batch):
            return [{} for _ in batch]

    measure = ValidationLoss(images(2), fresh, batch_size=1)
    assert measure.measure(Silent()) == measure.measure(Silent()) == {}
    assert caplog.text.count("Silent gives no losses in evaluation: no validation loss") == 1


def test_a_model_that_was_not_trained_gets_no_normalizer():
    """Detectron2's RetinaNet has none before its first step, ours has."""
    model = build(BACKBONES["ConvNeXt"], "RetinaNet", "full").train()
    before = getattr(model, "loss_normalizer", None)
    ValidationLoss(images(3), fresh, batch_size=BATCH).measure(model)
    assert getattr(model, "loss_normalizer", None) == before
