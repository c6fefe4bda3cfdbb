"""One optimizer step, brute force beside it: micro-batches, clipping, EMA, stops, bad losses."""

import copy
import math

import pytest
import torch
from detectron2.engine import HookBase
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loradet.training.trainer import NonFiniteLossError, Trainer, UnusedParameterError


class Toy(nn.Module):
    """Two losses of a linear layer; a sample is {"x": (3,), "y": scalar, "image_id": int}."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.idle = nn.Linear(2, 2).requires_grad_(False)
        self.loss_normalizer = 100.0

    def forward(self, batch):
        x = torch.stack([sample["x"] for sample in batch])
        y = torch.tensor([sample["y"] for sample in batch])
        a, b = self.layer(x).T
        self.loss_normalizer = 0.9 * self.loss_normalizer + 0.1 * len(batch)
        return {"loss_a": ((a - y) ** 2).mean(), "loss_b": (b - y).abs().mean()}


def batches(count, size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [{"x": torch.randn(3, generator=generator), "y": float(i + j), "image_id": 10 * i + j} for j in range(size)]
        for i in range(count)
    ]


def make(data, lr=0.05, **kwargs):
    torch.manual_seed(1)
    model = Toy()
    return Trainer(model, data, torch.optim.SGD(model.layer.parameters(), lr=lr), **kwargs)


def loop(data, steps, accumulate, clip=None, lr=0.05):
    """The same training written out: gradients of micro-batches are averaged by hand."""
    torch.manual_seed(1)
    model = Toy()
    weights = list(model.layer.parameters())
    stream = iter(data)
    history = []
    for _ in range(steps):
        gradients = [torch.zeros_like(w) for w in weights]
        for _ in range(accumulate):
            loss = sum(model(next(stream)).values())
            for gradient, part in zip(gradients, torch.autograd.grad(loss, weights)):
                gradient += part / accumulate
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        scale = min(1.0, clip / norm) if clip else 1.0
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients):
                weight -= lr * scale * gradient
        history.append(copy.deepcopy(model.layer.state_dict()))
    return history


@settings(max_examples=10, deadline=None)
@given(accumulate=st.integers(1, 4), clip=st.sampled_from([None, 0.5, 1e3]))
def test_step_is_the_mean_gradient_of_its_micro_batches(accumulate, clip):
    data = batches(12)
    trainer = make(data, accumulate=accumulate, clip_norm=clip)
    trainer.train(0, 12 // accumulate)
    expected = loop(data, 12 // accumulate, accumulate, clip)[-1]
    for name, value in trainer.module.layer.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_logged_losses_are_means_over_micro_batches():
    data = batches(4)
    trainer = make(data, accumulate=4, lr=0.0)
    trainer.train(0, 1)
    losses = [Toy.forward(trainer.module, batch) for batch in data]
    latest = trainer.storage.latest()
    for name in ("loss_a", "loss_b"):
        expected = sum(float(loss[name].detach()) for loss in losses) / 4
        assert latest[name][0] == pytest.approx(expected, rel=1e-6)
    assert latest["total_loss"][0] == pytest.approx(latest["loss_a"][0] + latest["loss_b"][0])
    assert latest["grad_norm"][0] > 0


def test_ema_follows_the_weights_of_whole_steps():
    data = batches(8)
    trainer = make(data, accumulate=2, ema_decay=0.5)
    trainer.train(0, 4)
    history = loop(data, 4, 2)
    torch.manual_seed(1)
    average = Toy().layer.weight.detach()
    for step, weights in enumerate(history, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights["weight"]
    own = trainer.module.layer.weight.detach().clone()
    with trainer.ema.applied():
        torch.testing.assert_close(trainer.module.layer.weight.detach(), average)
    assert torch.equal(trainer.module.layer.weight, own)
    with pytest.raises(ValueError, match="other trainable parameters"):
        trainer.ema.load_state_dict({"steps": 1, "averages": {"elsewhere": torch.zeros(1)}})


def test_a_parameter_without_gradient_is_named():
    trainer = make(batches(2))
    trainer.trainable["idle.weight"] = trainer.module.idle.weight
    with pytest.raises(UnusedParameterError, match=r"1 trainable parameters get no gradient: idle\.weight"):
        trainer.train(0, 1)


def test_a_zero_gradient_is_legal():
    data = batches(1)
    data[0][0]["x"] = data[0][1]["x"] = torch.zeros(3)
    trainer = make(data)
    before = trainer.module.layer.weight.detach().clone()
    trainer.train(0, 1)
    assert not trainer.module.layer.weight.grad.any()
    assert torch.equal(trainer.module.layer.weight, before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_stops_before_it_reaches_the_weights(value, tmp_path):
    data = batches(4)
    data[2][1]["y"] = value
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    trainer = make(data, output_dir=tmp_path)
    with pytest.raises(
        NonFiniteLossError,
        match=r"iteration 2 .*loss_a=.*images of the batch: \[20, 21\].*model_0000001\.pth",
    ):
        trainer.train(0, 4)
    torch.testing.assert_close(trainer.module.layer.weight.detach(), loop(data, 2, 1)[-1]["weight"])
    assert trainer.iter == 1


@pytest.mark.parametrize("bad", [4, 5])  # the first or the second micro-batch of iteration 2
def test_a_forward_pass_that_meets_nan_stops_there(bad):
    """As the proposal generator's does, which has no loss to give."""

    class Proposals(Toy):
        def forward(self, batch):
            if batch[0]["image_id"] == 10 * bad:
                raise FloatingPointError("The boxes are NaN: training has diverged.")
            return super().forward(batch)

    torch.manual_seed(1)
    model = Proposals()
    trainer = Trainer(model, batches(8), torch.optim.SGD(model.layer.parameters(), lr=0.05), accumulate=2)
    message = r"not finite at iteration 2 \(process 0: The boxes are NaN: training has diverged; images .*\[40, 41, 50"
    with pytest.raises(NonFiniteLossError, match=message):
        trainer.train(0, 4)
    torch.testing.assert_close(model.layer.weight.detach(), loop(batches(8), 2, 2)[-1]["weight"])


def test_an_interrupt_ends_after_the_running_step():
    class Interrupt(HookBase):
        def before_step(self):
            if self.trainer.iter == 2:
                self.trainer.interrupt()

    trainer = make(batches(6))
    trainer.register_hooks([Interrupt()])
    trainer.train(0, 6)
    assert (trainer.stop_reason, trainer.iter) == ("interrupted", 2)
    torch.testing.assert_close(trainer.module.layer.weight.detach(), loop(batches(6), 3, 1)[-1]["weight"])


def test_bf16_comes_near_full_precision():
    data = batches(6)
    mixed, full = make(data, amp_dtype=torch.bfloat16), make(data)
    mixed.train(0, 6)
    full.train(0, 6)
    torch.testing.assert_close(mixed.module.layer.weight, full.module.layer.weight, rtol=0.1, atol=0.05)
    assert mixed.module.layer.weight.dtype == torch.float32
    assert "grad_scale" not in mixed.storage.latest()


def test_fp16_skips_the_steps_that_overflow_and_then_learns():
    data = batches(1) * 40
    trainer = make(data, amp_dtype=torch.float16)
    trainer.train(0, 40)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert losses[-1] < 0.5 * losses[0]
    assert trainer.storage.latest()["grad_scale"][0] < 65536


def test_fp16_gives_up_where_no_scale_helps():
    class BadGradient(Toy):
        def forward(self, batch):  # noqa: ARG002
            # The derivative of the root is infinite at 0, and infinity times 0 is NaN; the loss itself is finite.
            return {"loss": (self.layer.weight * 0).pow(2).sum().sqrt() + 1.0}

    model = BadGradient()
    optimizer = torch.optim.SGD(model.layer.parameters(), lr=0.1)
    model.layer.bias.requires_grad_(False)
    trainer = Trainer(model, batches(1) * 60, optimizer, amp_dtype=torch.float16)
    with pytest.raises(NonFiniteLossError, match="grad_norm"):
        trainer.train(0, 60)
    assert 10 < trainer.iter < 30


def test_state_survives_weights_only_loading(tmp_path):
    data = batches(9)
    first = make(data[:4], accumulate=2, ema_decay=0.9)
    first.train(0, 2)
    torch.save({"trainer": first.state_dict(), "model": first.module.state_dict()}, tmp_path / "state.pth")
    draws = torch.rand(3)
    torch.manual_seed(99)

    saved = torch.load(tmp_path / "state.pth", weights_only=True)
    second = make(data[4:8], accumulate=2, ema_decay=0.9)
    second.module.load_state_dict(saved["model"])
    second.load_state_dict(saved["trainer"])
    assert second.iter == 1
    second.train(2, 4)
    whole = make(data[:8], accumulate=2, ema_decay=0.9)
    whole.train(0, 4)
    assert torch.equal(second.module.layer.weight, whole.module.layer.weight)
    assert second.module.loss_normalizer == whole.module.loss_normalizer
    assert second.images_seen == whole.images_seen == 16
    for name, value in second.ema.state_dict()["averages"].items():
        assert torch.equal(value, whole.ema.state_dict()["averages"][name])
    assert second.storage.history("loss_a").values() == whole.storage.history("loss_a").values()
    second._rank_state.restore(second.module)
    assert torch.equal(torch.rand(3), draws)


def test_the_peak_memory_of_an_earlier_part_counts(monkeypatch):
    def a_process_held(peak_mb):
        monkeypatch.setattr("loradet.training.hooks.memory.peak_memory_mb", lambda: peak_mb)

    a_process_held(5000.0)
    first = make(batches(2))
    first.train(0, 2)
    saved = first.state_dict()
    a_process_held(100.0)  # for loading the model, say
    resumed = make(batches(2))
    assert resumed.memory.peak_mb() == 100
    resumed.load_state_dict(saved)
    assert resumed.memory.peak_mb() == 5000
    a_process_held(6000.0)
    assert resumed.memory.peak_mb() == 6000
    a_process_held(100.0)
    older = make(batches(2))
    older.load_state_dict({key: value for key, value in saved.items() if key != "peak_memory_mb"})
    assert (older.iter, older.memory.peak_mb()) == (1, 100)
