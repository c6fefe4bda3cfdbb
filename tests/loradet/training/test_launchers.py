"""Who has started a process: what torchrun and srun say in the environment, as their tasks and other steps have it."""

import itertools
import sys

import pytest

from loradet.errors import UserError
from loradet.training.command import resume_command
from loradet.training.launchers import StartedBy, rank_and_count, srun_task, started_by
from loradet.training.node_list import expand_counts, expand_nodes

# Four tasks on two nodes, as the third of them has it.
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "gpu[07-09]",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
ONE_A_NODE = SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}


def test_a_task_of_srun_knows_its_place():
    task = srun_task(SRUN)
    assert (task.rank, task.count, task.local_rank, task.per_node) == (2, 4, 0, (2, 2))
    assert (task.nodes, task.address) == (("gpu08", "gpu09"), "gpu08")
    assert rank_and_count(SRUN) == (2, 4)


def test_every_step_meets_at_a_port_of_its_own():
    ports = {
        srun_task(SRUN | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).port
        for job, step in itertools.product(range(4000, 4100), range(8))
    }
    assert len(ports) == 800
    assert min(ports) >= 20000
    assert max(ports) < 32768  # those from there on a kernel gives to anybody
    given = srun_task(SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert (given.address, given.port) == ("10.0.0.1", 29500)
    with pytest.raises(UserError, match="MASTER_PORT=any: expected a port"):
        srun_task(SRUN | {"MASTER_PORT": "any"})


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_STEP_ID": ""},  # a batch script: SLURM_NTASKS and SLURM_PROCID=0 are set
        {"SLURM_STEP_ID": "batch"},
        {"SLURM_STEP_ID": "4294967291"},  # the same, as its number
        {"SLURM_STEP_ID": "4294967290"},  # the shell that salloc opens on a node
        {"SLURM_PTY_PORT": "40000"},  # srun --pty bash
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_PROCID": ""},
    ],
)
def test_what_srun_has_not_started_is_no_task(change):
    assert srun_task(SRUN | change) is None
    assert started_by(1, 1, SRUN | change) is StartedBy.NOBODY
    assert started_by(4, 1, SRUN | change) is StartedBy.OURSELVES
    assert rank_and_count(SRUN | change) == (0, 1)


def test_torchrun_in_a_task_of_srun_is_torchrun():
    torchrun = {"LOCAL_RANK": "1", "RANK": "5", "WORLD_SIZE": "8"}
    assert started_by(1, 1, ONE_A_NODE | torchrun) is StartedBy.TORCHRUN
    assert rank_and_count(ONE_A_NODE | torchrun) == (5, 8)


@pytest.mark.parametrize(
    ("environment", "num_gpus", "num_machines", "starter"),
    [
        ({}, 1, 1, StartedBy.NOBODY),
        ({}, 2, 1, StartedBy.OURSELVES),
        ({}, 1, 2, StartedBy.OURSELVES),
        (SRUN, 1, 1, StartedBy.SRUN),
        (SRUN, 2, 1, StartedBy.SRUN),
        (SRUN, 2, 2, StartedBy.SRUN),
        (ONE_A_NODE, 1, 1, StartedBy.SRUN),
        (ONE_A_NODE, 1, 2, StartedBy.SRUN),
        (ONE_A_NODE, 4, 1, StartedBy.OURSELVES),
        (ONE_A_NODE, 4, 2, StartedBy.OURSELVES),
    ],
)
def test_tasks_are_processes_unless_one_a_node_starts_several(environment, num_gpus, num_machines, starter):
    assert started_by(num_gpus, num_machines, environment) is starter


@pytest.mark.parametrize(("num_gpus", "num_machines"), [(3, 1), (4, 1), (2, 3), (1, 2)])
def test_other_numbers_than_those_of_srun_are_refused(num_gpus, num_machines):
    with pytest.raises(UserError, match=rf"--num-gpus {num_gpus} .* srun of 4 tasks on 2 nodes"):
        started_by(num_gpus, num_machines, SRUN)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("here", ["here"]),
        ("a1,b-2.local", ["a1", "b-2.local"]),
        ("n[1,3-5]", ["n1", "n3", "n4", "n5"]),
        ("gpu[098-101],login", ["gpu098", "gpu099", "gpu100", "gpu101", "login"]),
        ("r[1-2]n[01-02]-ib", ["r1n01-ib", "r1n02-ib", "r2n01-ib", "r2n02-ib"]),
    ],
)
def test_lists_of_nodes_are_expanded(text, names):
    assert expand_nodes(text) == names


@pytest.mark.parametrize("text", ["", "a,", "n[1-", "n[1-x]", "n[]", "n]1["])
def test_what_is_no_list_of_nodes_is_named(text):
    with pytest.raises(UserError, match="SLURM's list of nodes"):
        expand_nodes(text)


def test_tasks_per_node_are_expanded():
    assert expand_counts("4(x2),3,1(x3)") == [4, 4, 3, 1, 1, 1]
    with pytest.raises(UserError, match="tasks per node"):
        expand_counts("4x2")


def test_the_command_to_go_on_with_has_srun(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["loradet", "train", "--config-file", "quickstart"])
    words = resume_command().split()
    assert words[:3] == ["srun", "--nodes=2", "--ntasks=4"]
    assert words[-3:] == ["--resume", "--config-file", "quickstart"]
