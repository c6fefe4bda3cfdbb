"""Runs on a Ray cluster of two nodes (both on this machine): one dies, one comes late, one has GPUs; Ctrl-C."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.experiments_tool import iterations, training_pid, write_study
from helpers.paths import ROOT
from helpers.stub_training import environment, stub_runs, trace
from helpers.train_tool import ENVIRONMENT

from loradet.errors import UserError
from loradet.experiments.running.ray_executor import RayExecutor
from loradet.experiments.running.run import Launch
from loradet.experiments.running.runner import run_all
from loradet.run_folder import RunFolder

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

_STORE_BYTES = 80_000_000
TOOL = ("tools/experiments.py",)


def patiently(start, times=4):
    """A node of Ray gives up where it has not started in 30 s, as on a busy machine."""
    for left in reversed(range(times)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError


class Nodes:
    """A cluster whose head carries out nothing; nodes come and go."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        self._cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.address, self._nodes = self._cluster.address, []

    def add(self, **has):
        has = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, **has}
        # What the nodes have of their own: they know this project by the command alone.
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PYTHONPATH", raising=False)
            node = patiently(lambda: self._cluster.add_node(**has))
        self._nodes.append(node)
        return node

    def of_process(self, pid):
        """The node that a process belongs to."""
        raylets = {process.process.pid: node for node in self._nodes for process in node.all_processes["raylet"]}
        while pid not in raylets:
            pid = parent(pid)
        return raylets[pid]

    def kill(self, node):
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def remove_all(self):
        for node in list(self._nodes):
            self.kill(node)

    def shutdown(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "RAY_ADDRESS", "OMP_NUM_THREADS"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        nodes = Nodes()
        yield nodes
        nodes.shutdown()


@pytest.fixture
def nodes(cluster):
    yield cluster
    cluster.remove_all()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


class InBackground(threading.Thread):
    """Carries out runs, while the main thread, in which alone Ray starts nodes, does something to the cluster."""

    def __init__(self, runs, executor):
        super().__init__(daemon=True)
        self.runs, self.executor, self.results, self.problem = runs, executor, [], None
        self.start()

    def run(self):
        try:
            self.results = run_all(self.runs, self.executor)
        except Exception as error:
            self.problem = error

    def wait_until(self, condition):
        wait_until(lambda: condition() or not self.is_alive())
        assert self.is_alive(), self.problem or self.results

    def finish(self):
        self.join(600)
        assert not self.is_alive()
        assert self.problem is None, self.problem
        return self.results


def has_step(run, step):
    return any(word == f"step{step}" for word, _ in trace(run))


def assert_one_at_a_time(run, steps):
    """The run's processes followed each other, and made every step once (a killed one perhaps its last twice)."""
    found = trace(run)
    order = list(dict.fromkeys(pid for _, pid in found))
    assert [pid for _, pid in found] == sorted((pid for _, pid in found), key=order.index)
    made = [int(word[4:]) for word, _ in found if word.startswith("step")]
    assert sorted(set(made)) == list(range(1, steps + 1))
    assert len(made) <= steps + 1


def test_a_run_whose_node_dies_goes_on_elsewhere(nodes, here, caplog, capsys):
    caplog.set_level(logging.INFO, "loradet")
    first = nodes.add()
    runs = stub_runs(here, seeds=(0, 1), steps=60)

    carried_out = InBackground(runs, RayExecutor(here / "runs", Launch(), address=nodes.address))
    carried_out.wait_until(lambda: has_step(runs[0], 5) or has_step(runs[1], 5))
    nodes.kill(first)
    nodes.add()
    results = carried_out.finish()
    assert [result.state for result in results] == ["finished", "finished"], results
    for run in runs:
        assert_one_at_a_time(run, 60)
    begun = [sum(word == "begins" for word, _ in trace(run)) for run in runs]
    assert sorted(begun) == [1, 2]
    hurt = runs[begun.index(2)]
    assert f"{hurt.name}: goes on on {socket.gethostname()}" in caplog.text
    assert f"Node {socket.gethostname()} was lost" in caplog.text
    printed = capsys.readouterr()
    assert "raylet" not in printed.out + printed.err


def test_a_killed_task_tells_its_training_to_save_and_is_done_again(nodes, here):
    nodes.add()
    (run,) = stub_runs(here, steps=60)

    carried_out = InBackground([run], RayExecutor(here / "runs", Launch(), address=nodes.address))
    carried_out.wait_until(lambda: has_step(run, 5))
    (training,) = {pid for _, pid in trace(run)}
    os.kill(parent(training), signal.SIGKILL)
    (result,) = carried_out.finish()
    assert result.state == "finished"
    assert_one_at_a_time(run, 60)
    assert [word for word, _ in trace(run) if not word.startswith("step")] == ["begins", "saved", "begins", "ends"]


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_that_comes_late_is_waited_for_only_where_asked(nodes, here):
    (run,) = stub_runs(here)
    with pytest.raises(UserError, match=r"takes 1 CPU, 0 GPU: no node of the Ray cluster has so many"):
        run_all([run], RayExecutor(here / "runs", Launch(), address=nodes.address))
    began = time.monotonic()
    with pytest.raises(UserError, match="--node-wait"):
        run_all([run], RayExecutor(here / "runs", Launch(), address=nodes.address, node_wait_s=3.0))
    assert time.monotonic() - began < 30
    assert not trace(run)

    carried_out = InBackground([run], RayExecutor(here / "runs", Launch(), address=nodes.address, node_wait_s=120.0))
    time.sleep(3)
    assert carried_out.is_alive()
    nodes.add()
    (result,) = carried_out.finish()
    assert result.state == "finished"


def test_gpus_are_those_that_ray_gives(nodes, here):
    nodes.add(num_cpus=4, num_gpus=2)
    runs = stub_runs(here, seeds=(0, 1, 2), steps=20)
    results = run_all(runs, RayExecutor(here / "runs", Launch(), address=nodes.address))
    assert {result.state for result in results} == {"finished"}
    assert {environment(run)["CUDA_VISIBLE_DEVICES"] for run in runs} == {"0", "1"}
    assert {environment(run)["OMP_NUM_THREADS"] for run in runs} == {"2"}
    with pytest.raises(UserError, match=r"takes 1 CPU, 3 GPU: no node .*: 4 CPU, 2 GPU"):
        run_all(
            stub_runs(here, seeds=(5,)), RayExecutor(here / "runs", Launch(), address=nodes.address, gpus_per_run=3.0)
        )


def study_command(study, nodes, *words):
    return [
        *(sys.executable, *TOOL, "--study", str(study), "--work-dirs", str(study / "runs"), "run"),
        *("--executor", "ray", "--address", nodes.address, *words),
    ]


def start(study, nodes, *words):
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        study_command(study, nodes, *words),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(command, condition):
    wait_until(lambda: command.poll() is not None or condition(), 900)
    if command.poll() is not None:
        pytest.fail(command.communicate()[0])


def test_ctrl_c_saves_and_the_same_command_goes_on(nodes, tmp_path):
    nodes.add(num_cpus=2)
    study = write_study(
        tmp_path, {"id": "a", "words": ["train.max_iter=40", "train.eval_period=0"], "seeds": [0, 1, 2]}
    )
    folders = [study / "runs" / f"a_full_seed{seed}" for seed in (0, 1, 2)]
    command = start(study, nodes, "--cpus-per-run", "1")
    wait_for(command, lambda: sum(len(iterations(f)) >= 2 for f in folders) == 2)
    os.killpg(command.pid, signal.SIGINT)
    printed, _ = command.communicate(timeout=1200)
    assert command.returncode == 130, printed
    assert printed.rstrip().endswith("Interrupted; the same command goes on.")
    assert "Traceback" not in printed and "raylet" not in printed
    begun = [RunFolder(folder) for folder in folders if folder.is_dir()]
    assert len(begun) == 2
    for folder in begun:
        assert (folder.read_record()["status"], folder.last_checkpoint() is None) == ("interrupted", False)
        assert not folder.lock.read_text()

    again = start(study, nodes, "--cpus-per-run", "1")
    printed, _ = again.communicate(timeout=1200)
    assert again.returncode == 0, printed
    assert printed.count("begins on") == 3
    for folder in folders:
        assert iterations(folder) == list(range(40))
    assert sum("resumed_at" in folder.read_record() for folder in begun) == 2


def test_the_quickstart_study_comes_to_its_report_though_a_node_dies(nodes, tmp_path):
    study = quickstart_study(tmp_path)
    nodes.add()
    nodes.add()
    command = start(study, nodes, "--report")
    folders = [study / "runs" / f"{entry}_full" for entry in ("lora", "probe")]
    wait_for(command, lambda: any(3 <= len(iterations(folder)) < 12 for folder in folders))
    (working, *_) = (folder for folder in folders if 3 <= len(iterations(folder)) < 12)
    nodes.kill(nodes.of_process(training_pid(working)))
    printed, _ = command.communicate(timeout=1200)
    assert command.returncode == 0, printed
    assert f"{working.name}: goes on on" in printed and "was lost; its runs go on elsewhere" in printed
    assert "raylet" not in printed
    records = [RunFolder(folder).read_record() for folder in folders]
    assert [record["status"] for record in records] == ["finished", "finished"]
    assert 0 < RunFolder(working).read_record()["resumed_at"] < 12
    for folder in folders:
        assert iterations(folder) == list(range(12))
    report = study / "runs" / "quickstart_report"
    assert "2 of 2 runs are finished." in (report / "report.md").read_text()
    assert (report / "report.html").is_file()


def quickstart_study(folder):
    """The configs of `make demo`, side by side, shortened."""
    short = [
        *(f"data.root={folder / 'data'}", "train.device=cpu", "data.total_batch_size=2", "train.max_iter=12"),
        *("train.eval_period=0", "train.checkpointer.period=2", "train.log_period=1"),
    ]
    entries = [
        {
            "id": id,
            "title": id,
            "objective": "which is better",
            "config": str(ROOT / "configs" / f"{config}.py"),
            "overrides": short,
            "splits": ["val"],
        }
        for id, config in (("lora", "quickstart"), ("probe", "quickstart_linear_probe"))
    ]
    scenes = {"root": str(folder / "data"), "size": 192, "style": "sar", "counts": {"train": 16, "val": 4}}
    return write_study(folder, name="quickstart", title="The quickstart", entries=entries, scenes=scenes)
