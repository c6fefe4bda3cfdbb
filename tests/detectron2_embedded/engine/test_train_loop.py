"""Trainers and their contract with hooks."""

import logging
from collections.abc import Iterator

import pytest
import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.utils.events import EventStorage
from torch import nn


class Notes(HookBase):
    def __init__(self, events: list[tuple]):
        self.events = events

    def _note(self, name: str) -> None:
        self.events.append((name, self.trainer.iter, self.trainer.storage.iter))

    def before_train(self) -> None:
        self._note("before_train")

    def before_step(self) -> None:
        self._note("before_step")

    def after_backward(self) -> None:
        self._note("after_backward")

    def after_step(self) -> None:
        self._note("after_step")

    def after_train(self) -> None:
        self._note("after_train")


class Counting(HookBase):
    def __init__(self, value: int = 0):
        self.value = value

    def after_step(self) -> None:
        self.value += 1

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


class Linear(nn.Module):
    """Gives one loss or a dict of two; `bad` names iterations with a NaN."""

    def __init__(self, as_dict: bool = True, bad: tuple[int, ...] = ()):
        super().__init__()
        self.fc = nn.Linear(3, 1)
        self.as_dict = as_dict
        self.bad = bad
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        loss = self.fc(x).square().mean()
        if self.calls in self.bad:
            loss = loss * float("nan")
        self.calls += 1
        return {"loss_x": loss, "loss_reg": self.fc.weight.abs().sum()} if self.as_dict else loss


def batches() -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(4, 3, generator=generator)


def make(model: nn.Module | None = None, kind: type = SimpleTrainer, **kwargs: object) -> SimpleTrainer:
    model = model or Linear()
    return kind(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1), **kwargs)


def test_order_of_events() -> None:
    events: list[tuple] = []
    trainer = make()
    trainer.register_hooks([None, Notes(events)])
    trainer.train(5, 7)
    step = ("before_step", "after_backward", "after_step")
    expected = [("before_train", 5, 5), *((e, i, i) for i in (5, 6) for e in step), ("after_train", 7, 7)]
    assert events == expected


def test_after_train_runs_when_a_step_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(TrainerBase):
        def run_step(self) -> None:
            if self.iter == 2:
                raise OSError("disk full")

    events: list[tuple] = []
    trainer = Failing()
    trainer.register_hooks([Notes(events)])
    with caplog.at_level(logging.ERROR), pytest.raises(OSError, match="disk full"):
        trainer.train(0, 5)
    assert events[-1] == ("after_train", 2, 2)
    assert "disk full" in caplog.text


@pytest.mark.subset
def test_a_failing_step_is_named(caplog: pytest.LogCaptureFixture) -> None:
    trainer = make(Linear(bad=(2,)))
    with caplog.at_level(logging.ERROR), pytest.raises(FloatingPointError, match=r"iteration 2 .*loss_x.*nan"):
        trainer.train(0, 5)
    assert "stopped by an error in iteration 2" in caplog.text


def test_hooks_do_not_keep_the_trainer() -> None:
    hook = Counting()
    trainer = make()
    trainer.register_hooks([hook])
    trainer.train(0, 1)
    del trainer
    with pytest.raises(ReferenceError):
        hook.trainer.iter  # noqa: B018
    with pytest.raises(AssertionError):
        TrainerBase().register_hooks([object()])


def test_run_step_must_be_defined() -> None:
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


@pytest.mark.parametrize("as_dict", [True, False])
@pytest.mark.parametrize("zero_first", [True, False])
def test_steps_are_those_of_a_bare_loop(as_dict: bool, zero_first: bool) -> None:
    torch.manual_seed(0)
    model = Linear(as_dict)
    torch.manual_seed(0)
    twin = Linear(as_dict)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    trainer = make(model, zero_grad_before_forward=zero_first)
    trainer.train(0, 4)
    losses = []
    for _, x in zip(range(4), batches()):
        output = twin(x)
        loss = sum(output.values()) if as_dict else output
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.equal(model.fc.weight, twin.fc.weight)
    logged = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert logged == pytest.approx(losses, rel=1e-6)
    assert ("loss_x" in trainer.storage.latest()) == as_dict


def test_gather_metric_period() -> None:
    trainer = make(gather_metric_period=3)
    trainer.train(0, 7)
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [2, 5]


def test_nan_stops_before_the_step() -> None:
    model = Linear(bad=(2,))
    trainer = make(model)
    weights = []

    class Keep(HookBase):
        def after_step(self) -> None:
            weights.append(model.fc.weight.detach().clone())

    trainer.register_hooks([Keep()])
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        trainer.train(0, 5)
    assert len(weights) == 2
    assert torch.equal(model.fc.weight, weights[-1])


def test_eval_mode_is_an_error() -> None:
    trainer = make()
    trainer.model.eval()
    with pytest.raises(AssertionError, match="eval mode"):
        trainer.train(0, 1)


def test_reset_data_loader() -> None:
    trainer = make()
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: [torch.ones(1, 3)])
    trainer.train(1, 2)
    with pytest.raises(StopIteration):
        trainer.train(2, 3)


def test_states(caplog: pytest.LogCaptureFixture) -> None:
    first = make()
    first.register_hooks([Counting(), Notes([])])
    first.train(0, 3)
    first.iter = 2
    state = first.state_dict()
    assert set(state) == {"iteration", "hooks", "optimizer"}
    assert state["hooks"] == {"Counting": {"value": 3}}
    second = make()
    hook = Counting()
    second.register_hooks([hook])
    second.load_state_dict(state)
    assert (second.iter, hook.value) == (2, 3)
    third = make()
    with caplog.at_level(logging.WARNING):
        third.load_state_dict(state)
    assert "Counting" in caplog.text


@pytest.mark.subset  # Detectron2's runs on CUDA only
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_amp(precision: torch.dtype) -> None:
    seen = []

    class Watching(Linear):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(self.fc(x).dtype)
            return super().forward(x)

    trainer = make(Watching(), AMPTrainer, precision=precision, log_grad_scaler=True)
    before = trainer.model.fc.weight.detach().clone()
    trainer.train(0, 3)
    assert set(seen) == {precision}
    assert trainer.model.fc.weight.dtype == torch.float32
    assert not torch.equal(trainer.model.fc.weight, before)
    assert trainer.grad_scaler.is_enabled() == (precision is torch.float16)
    assert "[metric]grad_scaler" in trainer.storage.latest()
    state = trainer.state_dict()
    assert set(state) == {"iteration", "optimizer", "grad_scaler"}
    other = make(Linear(), AMPTrainer, precision=precision)
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == trainer.grad_scaler.get_scale()
    # A scaler of Detectron2, which is always active, goes on from it.
    torch.amp.GradScaler("cpu").load_state_dict(state["grad_scaler"])


@pytest.mark.subset
def test_scaler_starts_anew_where_the_checkpoint_has_none(caplog: pytest.LogCaptureFixture) -> None:
    state = {**make(Linear(), AMPTrainer, precision=torch.bfloat16).state_dict(), "grad_scaler": {}}
    with caplog.at_level(logging.WARNING):
        make(Linear(), AMPTrainer, precision=torch.float16).load_state_dict(state)
    assert "anew" in caplog.text


def test_write_metrics_by_hand() -> None:
    with EventStorage(4) as storage:
        SimpleTrainer.write_metrics({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 0.5, 4, prefix="x_")
    # Detectron2 0.6, main of 2026-06-06: the prefix is that of the sum alone.
    assert storage.latest() == {
        "rank_data_time": (0.5, 4),
        "data_time": (0.5, 4),
        "x_total_loss": (3.0, 4),
        "a": (1.0, 4),
        "b": (2.0, 4),
    }
