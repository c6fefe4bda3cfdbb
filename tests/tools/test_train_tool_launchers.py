"""Trainings that others start: tasks of srun, by its environment, and a process group that is there already."""

import json

import pytest
import torch
from helpers.launched import free_port, srun, train_in_group
from helpers.train_tool import CONFIG, arguments, call, lines, reproducible, start, succeed

SHORT = ["train.max_iter=4", "train.eval_period=0", "dataloader.train.num_workers=0"]


def ends(processes, seconds=900):
    """Status and standard error of each."""
    texts = [process.communicate(timeout=seconds)[1] for process in processes]
    return [process.returncode for process in processes], texts


def assert_trained_by_two(folder):
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["processes"]) == ("finished", 2)
    assert [line["iteration"] for line in lines(folder)] == list(range(4))


@pytest.fixture(scope="module")
def by_srun(train_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("srun") / "out"
    status, texts = ends(srun(arguments(train_data, folder, *SHORT), port=free_port()))
    assert status == [0, 0], texts
    return folder


def test_tasks_of_srun_are_the_processes_of_one_run(by_srun):
    assert_trained_by_two(by_srun)
    assert (by_srun / "log.txt.rank1").is_file()


@pytest.mark.slow
def test_a_run_is_the_same_whoever_starts_its_processes(train_data, by_srun, tmp_path):
    """As --num-gpus 2 has it; under torchrun see test_train_tool_processes.py."""
    words = arguments(train_data, tmp_path / "out", *SHORT, "--num-gpus", "2")
    status, texts = ends([start(*words)])
    assert status == [0], texts
    ours, theirs = ([reproducible(line) for line in lines(folder)] for folder in (by_srun, tmp_path / "out"))
    assert ours == theirs


@pytest.mark.slow
def test_one_task_a_node_starts_the_processes_of_its_node(train_data, tmp_path):
    """Two nodes, which are this machine both, of one process each and --num-gpus 2: four in all."""
    words = arguments(train_data, tmp_path / "out", *SHORT, "--num-gpus", "2")
    two_nodes = {"SLURM_JOB_NODELIST": "localhost,other", "SLURM_TASKS_PER_NODE": "1(x2)"}
    status, texts = ends(srun(words, port=free_port(), **two_nodes))
    assert status == [0, 0], texts
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 4


@pytest.mark.slow
def test_a_batch_script_is_not_the_first_of_many(train_data, tmp_path, monkeypatch):
    """It has srun's variables but for the step; nobody would come."""
    for name, value in {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-2]"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    succeed(*arguments(train_data, tmp_path / "out", "train.max_iter=1", "train.eval_period=0"))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_that_never_comes_is_one_line(train_data, tmp_path, rank):
    words = arguments(train_data, tmp_path / "out", *SHORT)
    status, (text,) = ends(srun(words, port=free_port(), ranks=(rank,), LORADET_JOIN_TIMEOUT="2"))
    assert status == [1]
    (line,) = text.splitlines()
    expected = {0: "1 of 2 processes did not come (1) within 2 s", 1: "Process 0 of 2 is not at localhost:"}
    assert line.startswith(f"error (process {rank}): {expected[rank]}")
    assert "LORADET_JOIN_TIMEOUT" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_machine_that_never_comes_is_one_line(train_data, tmp_path):
    machines = ("--num-gpus", "2", "--num-machines", "2", "--dist-url", f"tcp://localhost:{free_port()}")
    process = start(*arguments(train_data, tmp_path / "out", *SHORT, *machines), LORADET_JOIN_TIMEOUT="20")
    status, (text,) = ends([process], seconds=600)
    assert status == [1]
    line, *others = text.splitlines()
    assert not others, text
    assert line.startswith("error (process 0): 2 of 4 processes did not come (2, 3) within 20 s.")


def test_a_place_that_is_none_is_named(train_data, tmp_path):
    for url in ("tcp://localhost", "tcp://localhost:many", "file:///tmp/here"):
        machines = ("--num-machines", "2", "--dist-url", url)
        status, text = call(*arguments(train_data, tmp_path / "out", *SHORT, *machines))
        assert (status, text.count("error")) == (1, 1)
        assert f"--dist-url {url}: several machines meet at tcp://HOST:PORT" in text


@pytest.mark.slow
@pytest.mark.parametrize("with_tool", [False, True])
def test_a_process_group_that_exists_is_used_and_left_alone(train_data, tmp_path, monkeypatch, with_tool):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = [f"data.root={train_data}", f"train.output_dir={tmp_path / 'out'}", "train.device=cpu", *SHORT]
    rendezvous = (tmp_path / "rendezvous").as_uri()
    torch.multiprocessing.spawn(train_in_group, (rendezvous, CONFIG, words, str(tmp_path), with_tool), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [f["failed"] for f in found] == [[], []]
    assert [f["sum"] for f in found] == [2, 2]
    assert [f["local"] for f in found] == [[0, 2], [1, 2]]
    assert_trained_by_two(tmp_path / "out")
