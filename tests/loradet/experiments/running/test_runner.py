"""Many runs at a time: each with devices of its own, and none in the way of the others."""

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers.engine_study import entry, on_scenes, study

from loradet.experiments.results.folders import Result
from loradet.experiments.running import runner
from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Launch
from loradet.experiments.running.runner import LocalExecutor, run_all


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    (first,) = plan(study(entry(overrides=("data.root=nowhere",))), root=tmp_path_factory.mktemp("runs"))
    return [replace(first, seed=seed) for seed in range(6)]


class Carried:
    """Stands for `execute`: notes who ran with what, and when."""

    def __init__(self, broken=()):
        self.devices, self.broken, self.now, self.most = [], broken, Counter(), 0
        self.lock = threading.Lock()

    def __call__(self, run, *, environment, **_):
        with self.lock:
            used = environment.get("CUDA_VISIBLE_DEVICES", "none")
            self.devices.append(used)
            self.now[used] += 1
            self.most = max(self.most, sum(self.now.values()))
            assert used == "none" or self.now[used] == 1
        time.sleep(0.02)
        with self.lock:
            self.now[used] -= 1
        if run.seed in self.broken:
            raise ValueError(f"Entry {run.entry.id}: broken")
        return Result(entry=run.entry, mode=run.mode, seed=run.seed, folder=run.folder, state="finished")


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("num_gpus", "jobs", "sets"), [(1, None, "0 1 2 3"), (2, None, "0,1 2,3"), (1, 3, "0 1 2")])
def test_every_job_has_gpus_of_its_own(runs, monkeypatch, num_gpus, jobs, sets):
    carried = Carried()
    monkeypatch.setattr(runner, "execute", carried)
    executor = LocalExecutor(Launch(num_gpus=num_gpus), jobs=jobs)
    assert {run.name for run, _ in executor(runs)} == {run.name for run in runs}
    assert set(carried.devices) == set(sets.split())
    assert carried.most <= executor.jobs == len(sets.split())


@pytest.mark.usefixtures("four_gpus")
def test_the_gpus_are_those_that_the_environment_shows(runs, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    carried = Carried()
    monkeypatch.setattr(runner, "execute", carried)
    list(LocalExecutor(Launch())(runs))
    assert set(carried.devices) == {"5", "7"}


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("num_gpus", "jobs"), [(1, 5), (2, 3), (5, None), (0, 1), (1, 0)])
def test_more_gpus_than_there_are_is_an_error(num_gpus, jobs):
    with pytest.raises(ValueError, match=f"--num-gpus {num_gpus}"):
        LocalExecutor(Launch(num_gpus=num_gpus), jobs=jobs)


def test_a_run_that_cannot_be_carried_out_does_not_stop_the_others(runs, monkeypatch):
    monkeypatch.setattr(runner, "execute", Carried(broken=(1, 4)))
    found = {run.seed: result for run, result in LocalExecutor(Launch(), jobs=3)(runs)}
    assert {seed for seed, result in found.items() if result.state == "failed"} == {1, 4}
    assert {result.state for result in found.values()} == {"finished", "failed"}
    assert found[4].detail == "Entry a: broken"


def test_data_that_are_missing_fail_their_runs_before_anything_is_begun(runs):
    def none(todo):
        yield from ()
        raise AssertionError(todo)

    results = run_all(runs[:2], none)
    assert [result.state for result in results] == ["failed", "failed"]
    assert all("no annotations at nowhere/" in result.detail for result in results)
    assert not any(run.folder.exists() for run in runs[:2])


def test_what_starts_from_a_lost_file_fails_before_anything_is_painted(tmp_path):
    words = (f"data.root={tmp_path / 'scenes'}", "train.init_checkpoint=lost.pth")
    named = {"lost.pth": "a friend's detector"}
    runs = plan(on_scenes(tmp_path / "scenes", entry(overrides=words), labels=named), root=tmp_path / "runs")
    (result,) = run_all(runs, lambda _: pytest.fail("begun"))
    assert result.state == "failed"
    assert "train.init_checkpoint='lost.pth': no such file" in result.detail and "a friend's detector" in result.detail
    assert not (tmp_path / "scenes").exists()
