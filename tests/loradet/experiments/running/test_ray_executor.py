"""Runs as tasks of Ray: what is decided before a cluster is asked, and one short study on a cluster of this machine."""

import json
import logging
import os
import socket
import threading

import pytest
from helpers.experiments_tool import ask, write_study
from helpers.stub_training import environment, stub_runs

from loradet.errors import UserError
from loradet.experiments.running import ray_executor
from loradet.experiments.running.ray_cluster import Node, connected
from loradet.experiments.running.ray_executor import Need, RayExecutor
from loradet.experiments.running.ray_task import NodeProblem, RayJob
from loradet.experiments.running.run import Launch
from loradet.experiments.running.runner import run_all

SMALL, LARGE = Node("1", "small", 8, 0), Node("2", "large", 32, 4)
HEAD = Node("0", "head", 0, 0)


def need(nodes, num_gpus=1, **options):
    return RayExecutor("runs", Launch(num_gpus=num_gpus), **options)._need(nodes)


@pytest.mark.parametrize(
    ("nodes", "options", "cpus", "gpus"),
    [
        ([SMALL], {}, 8, 0),
        ([SMALL], {"jobs": 2}, 4, 0),
        ([HEAD, SMALL, SMALL], {"jobs": 3}, 4, 0),
        ([SMALL, LARGE], {}, 8, 1),
        ([SMALL, LARGE], {"num_gpus": 4}, 32, 4),
        ([LARGE], {"gpus_per_run": 0.5}, 4, 0.5),
        ([LARGE], {"gpus_per_run": 2.0}, 16, 2),
        ([LARGE], {"gpus_per_run": 0.0}, 32, 0),
        ([LARGE], {"gpus_per_run": 2.0, "cpus_per_run": 3.0}, 3, 2),
        ([Node("3", "lean", 2, 4)], {}, 0.5, 1),
    ],
)
def test_a_run_takes_its_share_of_the_smallest_node_that_can_have_it(nodes, options, cpus, gpus):
    assert need(nodes, **options) == Need(cpus, gpus)


def test_a_process_a_gpu():
    assert RayExecutor("runs", Launch(), gpus_per_run=2.0).launch.num_gpus == 2
    assert RayExecutor("runs", Launch(), gpus_per_run=0.5).launch.num_gpus == 1
    assert RayExecutor("runs", Launch(num_gpus=3), gpus_per_run=0.0).launch.num_gpus == 3


@pytest.mark.parametrize(
    ("num_gpus", "options", "message"),
    [
        (1, {"gpus_per_run": 1.5}, "--gpus-per-run 1.5: expected a whole number"),
        (1, {"gpus_per_run": -1.0}, "--gpus-per-run -1: expected a whole number"),
        (3, {"gpus_per_run": 2.0}, "--num-gpus 3 --gpus-per-run 2: expected one process a GPU"),
        (0, {}, "--num-gpus 0: expected one process a GPU"),
        (1, {"cpus_per_run": 0.0}, "--cpus-per-run 0: expected more than 0"),
        (1, {"jobs": 0}, "--jobs 0: expected 1 or more"),
        (1, {"node_wait_s": -1.0}, "--node-wait -1: expected seconds"),
    ],
)
def test_a_number_that_cannot_be_is_an_error(num_gpus, options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        RayExecutor("runs", Launch(num_gpus=num_gpus), **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor", "ray", "--slurm", "a=1"], "--slurm is for --executor slurm"),
        (["--gpus-per-run", "1"], "--gpus-per-run is for --executor ray"),
    ],
)
def test_an_option_of_another_executor_is_one_line(tmp_path, words, message):
    assert f"error: {message}" in ask(write_study(tmp_path, {"id": "a"}), "run", *words, status=1)


def test_a_node_that_can_never_hold_a_run_is_an_error_at_once_or_in_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ray_executor.time, "monotonic", lambda: now[0])
    nodes = [SMALL]
    with pytest.raises(UserError, match=r"takes 4 CPU, 1 GPU: no node .*\(small: 8 CPU, 0 GPU\).*--gpus-per-run"):
        ray_executor._NodeWatch(lambda: nodes, Need(4, 1), None)

    watch = ray_executor._NodeWatch(lambda: nodes, Need(4, 1), 10.0)
    now[0] += 9
    watch.look()
    nodes.append(LARGE)
    now[0] += 5
    watch.look()
    nodes.remove(LARGE)
    now[0] += 9
    watch.look()
    now[0] += 2
    with pytest.raises(UserError, match="so many any more"):
        watch.look()


def test_a_lost_node_is_named_and_waited_for(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(ray_executor.time, "monotonic", lambda: now[0])
    nodes = [LARGE]
    watch = ray_executor._NodeWatch(lambda: nodes, Need(4, 1), None)
    nodes.clear()
    now[0] += 200
    watch.look()
    assert "Node large was lost" in caplog.text
    now[0] += 200
    with pytest.raises(UserError, match=r"any more \(none\)"):
        watch.look()


def test_a_node_that_does_not_see_the_runs_or_the_data_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loradet.experiments.running.ray_task._SHARED_S", 0.1)
    (run,) = stub_runs(tmp_path)
    board = tmp_path / "runs" / ".ray_x"
    board.mkdir(parents=True)
    job = {"run": run, "launch": Launch(), "folder": tmp_path, "board": board, "environment": {}}
    elsewhere = RayJob(**{**job, "board": tmp_path / "lost" / ".ray_x"})()
    assert isinstance(elsewhere, NodeProblem)
    assert f"{socket.gethostname()} does not see {tmp_path / 'lost'}: expected storage" in elsewhere.message
    assert f"does not see {tmp_path / 'no'}:" in RayJob(**{**job, "folder": tmp_path / "no"})().message
    (tmp_path / "data" / "Annotations" / "val.json").unlink()
    assert f"does not see {tmp_path / 'data/Annotations/val.json'}" in RayJob(**job)().message


@pytest.fixture
def no_cluster():
    """Ray is there, and must not be asked: it would try for minutes."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(ray, "init", lambda **_: pytest.fail("asked"))
        yield patch


@pytest.fixture
def web_server():
    """Answers as an HTTP/1 server does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster there .Connection refused"),
        ("no.such.host.invalid:6379", "no Ray cluster there"),
        ("nonsense", "expected HOST:PORT of the cluster's head node"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
        ("ray://127.0.0.1:10001", "expected HOST:PORT .*run the command on a machine of the cluster"),
    ],
)
def test_a_wrong_address_is_one_line_at_once(no_cluster, address, message):
    with pytest.raises(UserError, match=rf"^--address {address}: {message}"), connected(address):
        pass
    no_cluster.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"^RAY_ADDRESS={address}: {message}"), connected():
        pass


@pytest.mark.usefixtures("no_cluster")
def test_another_server_at_the_address_is_told_from_ray(web_server):
    with pytest.raises(UserError, match="is not a Ray cluster"), connected(web_server):
        pass


def test_a_study_on_a_cluster_of_this_machine(tmp_path, monkeypatch, caplog, capsys):
    """One run fails, the others do not care; nothing of Ray is left, and nothing of it on the console."""
    ray = pytest.importorskip("ray")
    for name in ("RAY_ADDRESS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "loradet")
    runs = stub_runs(tmp_path, seeds=(0, 1, 2), failing=(1,))
    results = run_all(runs, RayExecutor(tmp_path / "runs", Launch(), jobs=1))
    assert [result.state for result in results] == ["finished", "failed", "finished"]
    assert results[1].detail == "ValueError: this seed fails"
    assert results[2].metrics["val"]["coco/bbox_mAP"] == 0.25
    attempts = json.loads((runs[1].folder / "attempts.json").read_text())
    assert [attempt["exit_code"] for attempt in attempts] == [1]

    variables = environment(runs[0])
    assert variables["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["HF_HUB_OFFLINE"]) == ("", "1")
    assert "SLURM_PROCID" not in variables
    for run in runs:
        assert f"{run.name}: begins on {socket.gethostname()} ({run.folder})" in caplog.text
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {run.name for run in runs}
    assert not ray.is_initialized()
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
