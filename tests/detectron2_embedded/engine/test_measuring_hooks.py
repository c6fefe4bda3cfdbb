"""Hooks that measure: profiles, memory of the GPU, statistics of batch norms."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.utils.events import get_event_storage
from torch import nn


class Multiplying(TrainerBase):
    def run_step(self) -> None:
        torch.ones(4, 3) @ torch.ones(3, 2)


def run(hook: HookBase, end: int = 5, trainer: TrainerBase | None = None) -> TrainerBase:
    trainer = trainer or Multiplying()
    trainer.register_hooks([hook])
    trainer.train(0, end)
    return trainer


def test_profile_as_a_file(tmp_path: Path) -> None:
    hook = hooks.TorchProfiler(lambda trainer: 1 <= trainer.iter < 3, str(tmp_path / "out"), save_tensorboard=False)
    run(hook)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["profiler-trace-iter1.json", "profiler-trace-iter2.json"]
    for file in files:
        names = {event["name"] for event in json.loads(file.read_text())["traceEvents"]}
        assert "aten::matmul" in names


def test_profile_for_tensorboard(tmp_path: Path) -> None:
    activities = [torch.profiler.ProfilerActivity.CPU]
    run(hooks.TorchProfiler(lambda trainer: trainer.iter == 2, str(tmp_path), activities=activities))
    (trace,) = (tmp_path / "log/profiler-tensorboard-iter2").iterdir()
    assert trace.name.startswith("worker0.")
    assert "aten::matmul" in trace.read_text()


@pytest.mark.subset  # Detectron2 0.6 leaves the profiler running
def test_profile_of_an_iteration_that_fails(tmp_path: Path) -> None:
    class Failing(TrainerBase):
        def run_step(self) -> None:
            raise OSError("disk full")

    with pytest.raises(OSError):
        run(hooks.TorchProfiler(lambda _: True, str(tmp_path), save_tensorboard=False), trainer=Failing())
    assert not list(tmp_path.iterdir())
    run(hooks.TorchProfiler(lambda _: True, str(tmp_path), save_tensorboard=False), end=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_memory_without_a_gpu(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO, logger="detectron2"):
        run(hooks.TorchMemoryStats(period=1))
    assert "mem" not in caplog.text


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU as the allocator's functions tell of one; the calls that reset its peaks."""
    resets: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, mib in (("max_memory_reserved", 8), ("memory_reserved", 7), ("max_memory_allocated", 6)):
        monkeypatch.setattr(torch.cuda, name, lambda mib=mib: mib * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_summary", lambda: "the summary")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append("reset"))
    return resets


def memory_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "max_reserved_mem" in record.getMessage()]


def test_memory_of_a_gpu(caplog: pytest.LogCaptureFixture, gpu: list[str]) -> None:
    with caplog.at_level(logging.INFO, logger="detectron2"):
        run(hooks.TorchMemoryStats(period=4), end=10)
    lines = memory_lines(caplog)
    assert [line.split("iter: ")[1].split()[0] for line in lines] == ["3", "7", "9"]
    for part in ("max_reserved_mem: 8MB", " reserved_mem: 7MB", "max_allocated_mem: 6MB", " allocated_mem: 5MB"):
        assert part in lines[0]
    assert "the summary" not in caplog.text
    assert len(gpu) == 3


@pytest.mark.subset  # Detectron2 0.6 has a line more than max_runs
def test_memory_lines_end(caplog: pytest.LogCaptureFixture, gpu: list[str]) -> None:
    with caplog.at_level(logging.INFO, logger="detectron2"):
        run(hooks.TorchMemoryStats(period=1, max_runs=2), end=6)
    assert len(memory_lines(caplog)) == len(gpu) == 2
    assert caplog.text.count("the summary") == 1


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        get_event_storage().put_scalar("seen", x.mean())
        return self.bn(x).square().sum() + (self.bn.weight * 0).sum()


def batches() -> Iterator[torch.Tensor]:
    for i in range(1000):
        yield torch.full((4, 2), float(i)) + torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]


def trainer_of(model: nn.Module) -> SimpleTrainer:
    return SimpleTrainer(model, batches(), torch.optim.SGD(model.parameters(), lr=0.0))


def test_precise_statistics_are_means_over_the_batches() -> None:
    model = Normed()
    trainer = run(hooks.PreciseBN(0, model, batches(), num_iter=10), 3, trainer_of(model))
    # Batches 0 to 9 have means 1.5 to 10.5.
    torch.testing.assert_close(model.bn.running_mean, torch.full((2,), 6.0))
    assert model.bn.momentum == 0.1
    assert len(trainer.storage.history("seen").values()) == 3


def test_precise_statistics_every_period_go_on_in_the_data() -> None:
    model = Normed()
    means = []

    class Note(HookBase):
        def after_step(self) -> None:
            means.append(model.bn.running_mean[0].item())

    trainer = trainer_of(model)
    trainer.register_hooks([hooks.PreciseBN(2, model, batches(), num_iter=4), Note()])
    trainer.train(0, 5)
    # After iterations 1, 3 and 4, over batches 0 to 3, 4 to 7 and 8 to 11.
    assert [means[i] for i in (1, 3, 4)] == pytest.approx([3.0, 7.0, 11.0])
    assert means[2] != pytest.approx(3.0)


def test_precise_statistics_by_hand() -> None:
    model = Normed()
    hooks.PreciseBN(0, model, [torch.ones(4, 2)] * 2, num_iter=2).update_stats()
    torch.testing.assert_close(model.bn.running_mean, torch.ones(2))


def test_a_model_without_batch_norms_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    used = iter([torch.ones(1, 2)])
    hook = hooks.PreciseBN(1, model, used, num_iter=1)
    hook.update_stats()
    assert len(list(used)) == 1
    model = Normed().eval()
    hooks.PreciseBN(1, model, [torch.ones(4, 2)], num_iter=1).update_stats()
    assert torch.equal(model.bn.running_mean, torch.zeros(2))
