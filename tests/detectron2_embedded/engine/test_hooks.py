"""Hooks, each through a small training run."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.utils.events import EventWriter, get_event_storage
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import nn


class Idle(TrainerBase):
    def run_step(self) -> None:
        pass


class Run(HookBase):
    """Calls a function with the iteration after each step."""

    def __init__(self, function: Callable[[int], None]):
        self.function = function

    def after_step(self) -> None:
        self.function(self.trainer.iter)


def run(*some_hooks: HookBase, start: int = 0, end: int = 10) -> Idle:
    trainer = Idle()
    trainer.register_hooks(some_hooks)
    trainer.train(start, end)
    return trainer


def test_callback_hook() -> None:
    calls: list[tuple] = []
    hook = hooks.CallbackHook(
        before_train=lambda t: calls.append(("before_train", t.iter)),
        after_step=lambda t: calls.append(("after_step", t.iter)),
        after_train=lambda t: calls.append(("after_train", t.iter)),
    )
    run(hook, end=2)
    assert calls == [("before_train", 0), ("after_step", 0), ("after_step", 1), ("after_train", 2)]


def test_iterations_that_are_timed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="detectron2"):
        history = run(hooks.IterationTimer(warmup_iter=4), start=5, end=10).storage.history("time").values()
    assert [i for _, i in history] == [8, 9]
    assert all(0 <= value < 60 for value, _ in history)
    assert "Total training time" in caplog.text or "total 0:00:" in caplog.text


@pytest.mark.subset  # its clock and its words
def test_iteration_timer(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    class Slow(TrainerBase):
        def run_step(self) -> None:
            clock[0] += 2.0

    trainer = Slow()

    def take_time(_: int) -> None:
        clock[0] += 1.0

    trainer.register_hooks([hooks.IterationTimer(warmup_iter=3), Run(take_time)])
    with caplog.at_level(logging.INFO, logger="detectron2"):
        trainer.train(0, 10)
    history = trainer.storage.history("time").values()
    assert [i for _, i in history] == list(range(2, 10))
    assert {value for value, _ in history} == {2.0}
    assert "8 iterations" in caplog.text
    assert "2.0000 s" in caplog.text
    assert "total 0:00:30, of which 0:00:10 in hooks" in caplog.text or "0:00:09 in hooks" in caplog.text


def test_periodic_writer() -> None:
    class Recorder(EventWriter):
        def __init__(self):
            self.at: list = []

        def write(self) -> None:
            self.at.append(get_event_storage().iter)

        def close(self) -> None:
            self.at.append("closed")

    writer = Recorder()
    run(hooks.PeriodicWriter([writer], period=4))
    assert writer.at == [3, 7, 9, 10, "closed"]
    with pytest.raises(AssertionError):
        hooks.PeriodicWriter([print])


def optimizer_of(*groups: tuple[int, float]) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1)) for _ in range(n)], "lr": lr} for n, lr in groups], lr=1.0
    )


def test_lr_scheduler_wraps_a_schedule() -> None:
    optimizer = optimizer_of((1, 1.0), (3, 0.5))
    trainer = run(Run(lambda _: optimizer.step()), hooks.LRScheduler(optimizer, LinearParamScheduler(1.0, 0.0)))
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.5 * (1 - i / 10) for i in range(10)])
    assert trainer.storage.smoothing_hints()["lr"] is False


def test_lr_scheduler_takes_those_of_the_trainer() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleTrainer(nn.Sequential(model, _Loss()), [torch.ones(1, 1)] * 6, optimizer)
    trainer.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    trainer.register_hooks([hooks.LRScheduler()])
    trainer.train(0, 6)
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    state = trainer.state_dict()["hooks"]["LRScheduler"]
    assert state["last_epoch"] == 6


class _Loss(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().mean()


@pytest.mark.parametrize(
    ("groups", "best"),
    [([(1, 0.1), (4, 0.2), (2, 0.3)], 1), ([(1, 0.1), (1, 0.2), (1, 0.2)], 1), ([(2, 0.3)], 0)],
)
def test_group_whose_rate_is_shown(groups: list[tuple[int, float]], best: int) -> None:
    assert hooks.LRScheduler.get_best_param_group_id(optimizer_of(*groups)) == best


def test_periodic_checkpointer(tmp_path: Path) -> None:
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), str(tmp_path))
    run(hooks.PeriodicCheckpointer(checkpointer, 4), end=6)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["model_0000003.pth", "model_final.pth"]


def test_eval_hook() -> None:
    evaluated: list[int] = []

    def evaluate() -> dict:
        evaluated.append(get_event_storage().iter)
        return {"bbox": {"AP": 30 + len(evaluated), "deep": {"x": torch.tensor(1.0)}}, "flat": 2}

    trainer = run(hooks.EvalHook(4, evaluate), end=8)
    assert evaluated == [3, 8]
    assert trainer.storage.latest()["bbox/AP"] == (32.0, 8)
    assert trainer.storage.latest()["bbox/deep/x"][0] == 1.0
    assert trainer.storage.latest()["flat"][0] == 2.0
    evaluated.clear()
    run(hooks.EvalHook(4, evaluate, eval_after_train=False), end=8)
    assert evaluated == [3]
    evaluated.clear()
    run(hooks.EvalHook(0, evaluate), end=8)
    assert evaluated == [8]


@pytest.mark.parametrize("results", [{"bbox": {"AP": "high"}}, {"bbox": {"AP": None}}])
def test_eval_hook_wants_numbers(results: dict) -> None:
    with pytest.raises(ValueError, match="bbox/AP"):
        run(hooks.EvalHook(1, lambda: results), end=2)
    with pytest.raises(AssertionError):
        run(hooks.EvalHook(1, lambda: [1]), end=2)


def best_run(
    folder: Path, values: dict[int, float], mode: str = "max", start: int = 0, end: int = 8
) -> hooks.BestCheckpointer:
    best = hooks.BestCheckpointer(2, DetectionCheckpointer(nn.Linear(1, 1), str(folder)), "bbox/AP", mode)

    def put(iteration: int) -> None:
        if iteration in values:
            get_event_storage().put_scalar("bbox/AP", values[iteration], smoothing_hint=False)

    run(Run(put), best, start=start, end=end)
    return best


@pytest.mark.parametrize(("mode", "at"), [("max", 3), ("min", 5)])
def test_best_checkpointer(tmp_path: Path, mode: str, at: int) -> None:
    values = {1: 10.0, 3: 30.0, 5: 5.0, 7: 20.0}
    best = best_run(tmp_path, values, mode)
    content = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (content["iteration"], best.best_iter, best.best_metric) == (at, at, values[at])


@pytest.mark.subset  # Detectron2 0.6 forgets it
def test_best_checkpointer_keeps_a_better_one_of_the_run_before(tmp_path: Path) -> None:
    best_run(tmp_path, {1: 30.0}, end=4)
    best = best_run(tmp_path, {5: 20.0, 7: 25.0}, start=4)
    assert best.best_metric == 30.0
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 1
    best_run(tmp_path, {5: 35.0}, start=4)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 5


def test_best_checkpointer_without_the_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="detectron2"):
        best_run(tmp_path, {})
    assert "bbox/AP" in caplog.text
    best_run(tmp_path, {1: math.nan})
    assert not (tmp_path / "model_best.pth").exists()
    with pytest.raises(AssertionError):
        hooks.BestCheckpointer(1, DetectionCheckpointer(nn.Linear(1, 1)), "x", "median")


@pytest.mark.subset
def test_missing_hooks_say_where_they_are() -> None:
    with pytest.raises(ImportError, match="AutogradProfiler"):
        from detectron2.engine.hooks import AutogradProfiler  # noqa: F401
