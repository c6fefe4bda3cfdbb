"""Runs as jobs: by submitit's executors on this machine, and by SLURM's commands, which a script stands for."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import fake_slurm
from helpers.engine_study import entry, on_scenes

from loradet.experiments.running.execution import execute
from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Launch
from loradet.experiments.running.runner import run_all
from loradet.experiments.running.state import read_attempts
from loradet.training.folder import record
from loradet.training.folder.metrics_log import read_lines

submitit = pytest.importorskip("submitit")

from loradet.experiments.running.slurm import JOB, SubmititExecutor  # noqa: E402

LENGTH = 40  # long enough to be met on its way


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("LORADET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "scenes"


def runs_in(root, data, seeds=(0,), length=LENGTH, words=()):
    words = (*words, f"data.root={data}", "train.device=cpu", "data.image_size=80", "data.max_size=80")
    short = entry(overrides=(*words, f"train.max_iter={length}", "train.eval_period=0"), seeds=seeds)
    runs = plan(on_scenes(data, short), root=root)
    for run in runs:
        run.data.prepare(run.entry)
    return runs


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing has interrupted."""
    (run,) = runs_in(tmp_path_factory.mktemp("whole"), data)
    assert execute(run).state == "finished"
    return run.folder


def iterations(folder):
    file = folder / "metrics.json"
    return [line["iteration"] for line in read_lines(file)] if file.is_file() else []


def assert_same_run(folder, whole, length=LENGTH):
    assert iterations(folder) == iterations(whole) == list(range(length))
    ours, theirs = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (folder, whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


class InBackground(threading.Thread):
    """Calls an executor; `results` holds what came, by name of the run."""

    def __init__(self, executor, runs):
        super().__init__(daemon=True)
        self.executor, self.runs, self.results = executor, runs, {}
        self.start()

    def run(self):
        for run, result in self.executor(self.runs):
            self.results[run.name] = result

    def wait_until(self, condition, seconds=900):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.is_alive(), self.results
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.02)

    def finish(self, seconds=900):
        self.join(seconds)
        assert not self.is_alive()
        return self.results


@pytest.mark.slow
def test_the_debug_executor_carries_out_a_run_here(data, tmp_path):
    (run,) = runs_in(tmp_path, data, length=2)
    executor = SubmititExecutor(tmp_path / "slurm", Launch(), cluster="debug")
    (result,) = run_all([run], executor)
    assert (result.state, record.read(run.folder)["status"]) == ("finished", "finished")
    (result,) = run_all([run], executor)
    assert result.state == "finished"


@pytest.mark.slow
def test_a_local_job_that_is_preempted_saves_and_goes_on(data, whole, tmp_path):
    (run,) = runs_in(tmp_path, data)
    executor = SubmititExecutor(tmp_path / "slurm", Launch(), cluster="local", poll_s=0.1)
    background = InBackground(executor, [run])
    background.wait_until(lambda: len(iterations(run.folder)) >= 3)
    (submitted,) = (tmp_path / "slurm").glob("*_submitted.pkl")
    controller = submitted.name.partition("_")[0]
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # as its controller does when time runs out
    results = background.finish()
    assert results[run.name].state == "finished", results
    assert_same_run(run.folder, whole)
    assert record.read(run.folder)["resumed_at"] < LENGTH
    assert not (run.folder / JOB).exists()


def test_a_job_that_fails_gives_the_last_words(data, tmp_path):
    (run,) = runs_in(tmp_path, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORADET_DETECTRON2", "nonsense")
        executor = SubmititExecutor(tmp_path / "slurm", Launch(), cluster="debug", poll_s=0.1)
        (result,) = run_all([run], executor)
    assert result.state == "failed"
    assert "LORADET_DETECTRON2" in result.detail


def test_a_parameter_that_submitit_does_not_know_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"--executor local: .*slurm_partitoin"):
        SubmititExecutor(tmp_path, Launch(), cluster="local", parameters={"slurm_partitoin": "a"})
    with pytest.raises(ValueError, match=r"--jobs 2: .*--executor local or slurm"):
        SubmititExecutor(tmp_path, Launch(), cluster="local", jobs=2)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"--executor slurm: .*srun"):
        SubmititExecutor(tmp_path, Launch())


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of a fake SLURM, whose commands are on the PATH."""
    home = tmp_path / "cluster"
    home.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(home))
    programs = fake_slurm.install(home)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return home


def calls(home, tool):
    file = home / "calls"
    return [line for line in file.read_text().splitlines() if line.startswith(f"{tool} ")] if file.is_file() else []


@pytest.mark.slow
def test_slurm_preempts_requeues_and_is_not_asked_twice(data, whole, tmp_path, cluster):
    """Two seeds as one array; a grid that is started again meanwhile finds the jobs."""
    runs = runs_in(tmp_path / "runs", data, seeds=(0, 1))
    parameters = {"slurm_partition": "night", "timeout_min": 60}

    def executor():
        return SubmititExecutor(tmp_path / "slurm", Launch(), jobs=2, parameters=parameters, poll_s=0.1)

    first = InBackground(executor(), runs)
    first.wait_until(lambda: all((run.folder / JOB).is_file() for run in runs))
    second = InBackground(executor(), runs)
    first.wait_until(lambda: len(iterations(runs[0].folder)) >= 3)
    job = submitit.SlurmJob(folder=tmp_path / "slurm", job_id="100_0")
    job._interrupt()
    results = [background.finish() for background in (first, second)]
    for found in results:
        assert [found[run.name].state for run in runs] == ["finished", "finished"], found
    assert_same_run(runs[0].folder, whole)
    assert record.read(runs[0].folder)["resumed_at"] < LENGTH
    assert len(calls(cluster, "sbatch")) == 1
    assert calls(cluster, "scontrol") == ["scontrol requeue 100_0"]
    script = (cluster / "100.sh").read_text()
    assert all(
        f"#SBATCH --{line}" in script for line in ("array=0-1%2", "partition=night", "time=60", "gpus-per-node=1")
    )

    # A finished grid submits nothing; a job that has ended does not stand in the way of a new one.
    assert [r.state for r in run_all(runs, executor())] == ["finished", "finished"]
    assert len(calls(cluster, "sbatch")) == 1
    with contextlib.suppress(FileNotFoundError):
        (runs[1].folder / "run.json").unlink()
    assert executor()._job_of(runs[1]) is None


@pytest.fixture(scope="module")
def whole_of_two(data, tmp_path_factory):
    """A run of two processes that nothing has interrupted."""
    (run,) = runs_in(tmp_path_factory.mktemp("whole_of_two"), data, length=16)
    assert execute(run, launch=Launch(num_gpus=2)).state == "finished"
    return run.folder


@pytest.mark.slow
def test_a_run_on_two_nodes_is_preempted_and_goes_on(data, whole_of_two, tmp_path, cluster):
    (run,) = runs_in(tmp_path / "runs", data, length=16)
    executor = SubmititExecutor(tmp_path / "slurm", Launch(), parameters={"nodes": 2, "gpus_per_node": 1}, poll_s=0.1)
    background = InBackground(executor, [run])
    background.wait_until(lambda: len(iterations(run.folder)) >= 3)
    submitit.SlurmJob(folder=tmp_path / "slurm", job_id="100")._interrupt()
    results = background.finish()
    assert results[run.name].state == "finished", results
    assert_same_run(run.folder, whole_of_two, 16)
    past = record.read(run.folder)
    assert past["processes"] == 2
    assert past["resumed_at"] < 16
    assert calls(cluster, "scontrol") == ["scontrol requeue 100"]
    script = (cluster / "100.sh").read_text()
    assert all(f"#SBATCH --{line}" in script for line in ("nodes=2", "ntasks-per-node=1", "gpus-per-node=1"))
    tries = read_attempts(run.folder)
    assert [attempt["exit_code"] for attempt in tries] == [0]
    for word in ("torch.distributed.run", "--nnodes=2", "--node-rank=0", "--nproc-per-node=1"):
        assert word in tries[0]["command"]
    assert (run.folder / "console.node1.txt").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_on_two_nodes_that_fails_says_why(data, tmp_path):
    (run,) = runs_in(tmp_path / "runs", data, words=("dataloader.train.total_batch_size=5",))  # which two cannot share
    executor = SubmititExecutor(tmp_path / "slurm", Launch(), parameters={"nodes": 2}, poll_s=0.1)
    (result,) = run_all([run], executor)
    assert result.state == "failed"
    assert "dataloader.train.total_batch_size=5" in result.detail


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_node_that_never_comes_is_one_line(data, tmp_path, monkeypatch):
    (run,) = runs_in(tmp_path / "runs", data)
    monkeypatch.setenv("FAKE_SLURM_ABSENT", "1")
    monkeypatch.setenv("LORADET_JOIN_TIMEOUT", "2")
    executor = SubmititExecutor(tmp_path / "slurm", Launch(), parameters={"nodes": 2}, poll_s=0.1)
    (result,) = run_all([run], executor)
    assert result.state == "failed"
    assert result.detail.startswith("1 of 2 processes did not come (1) within 2 s.")


@pytest.mark.usefixtures("cluster")
def test_a_broken_note_of_a_job_is_named(data, tmp_path):
    (run,) = runs_in(tmp_path / "runs", data)
    run.folder.mkdir(parents=True)
    (run.folder / JOB).write_text('{"id": ')
    executor = SubmititExecutor(tmp_path / "slurm", Launch(), poll_s=0.1)
    with pytest.raises(ValueError, match=rf"Entry {run.entry.id}: .*{JOB} is cut short"):
        run_all([run], executor)
