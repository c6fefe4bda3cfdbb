"""Who has started this process: torchrun and srun say so by environment variables."""

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from loradet.errors import UserError
from loradet.training.node_list import expand_counts, expand_nodes

STEP = "SLURM_STEP_ID"  # environment variable; without it a process is no task of srun

# Steps that are none of srun's: the shell of salloc, the batch script and others have numbers from here on.
_FIRST_RESERVED_STEP = 0xFFFFFFF0
# Below the ports that a kernel gives to whoever asks for any.
_FIRST_PORT, _PORTS = 20000, 12000


class StartedBy(enum.Enum):
    """Where the processes of a run come from."""

    GROUP = "a process group that is there already"
    TORCHRUN = "torchrun"
    SRUN = "srun, whose tasks are the processes"
    OURSELVES = "this process starts them"
    NOBODY = "this process is the only one"


@dataclass(frozen=True, kw_only=True)
class SrunTask:
    """This process among the tasks of an `srun` of several.

    Attributes:
        rank: number of this task, from 0.
        count: tasks of the step.
        local_rank: number among those of this node.
        per_node: tasks of each node, in the order of `nodes`.
        nodes: names.
        address: where the first task is reached.
        port: of the meeting there; the same for all tasks of a step, another one for each step.
        name: of the step among all.
    """

    rank: int
    count: int
    local_rank: int
    per_node: tuple[int, ...]
    nodes: tuple[str, ...]
    address: str
    port: int
    name: str

    @property
    def is_one_a_node(self) -> bool:
        """Whether every node has a single task, which may start processes of its own."""
        return set(self.per_node) == {1}


def started_by(num_gpus: int, num_machines: int, environment: Mapping[str, str] = os.environ) -> StartedBy:
    """Where the processes of this run come from.

    Args:
        num_gpus: processes that are asked for on this machine.
        num_machines: machines that are asked for.

    Raises:
        UserError: srun has started other numbers of tasks than are asked for.
    """
    if torch.distributed.is_initialized():
        return StartedBy.GROUP
    if is_under_torchrun(environment):
        return StartedBy.TORCHRUN
    task = srun_task(environment)
    asked = num_gpus * num_machines
    if task is None or (task.is_one_a_node and num_gpus > 1):
        return StartedBy.OURSELVES if asked > 1 else StartedBy.NOBODY
    if asked > 1 and (num_gpus not in task.per_node or num_machines not in (1, len(task.per_node))):
        raise UserError(
            f"--num-gpus {num_gpus} --num-machines {num_machines} under an srun of {task.count} tasks on "
            f"{len(task.per_node)} nodes: leave both out, a task is a process; or have one task a node "
            "(--ntasks-per-node=1), which starts the processes of its node."
        )
    return StartedBy.SRUN


def is_under_torchrun(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, or what sets its variables, has started this process."""
    return "LOCAL_RANK" in environment and "WORLD_SIZE" in environment


def srun_task(environment: Mapping[str, str] = os.environ) -> SrunTask | None:
    """This process's place where an `srun` of several tasks has started it.

    None for one task alone, and in a batch script or a shell on a node: SLURM_NTASKS is set there too, but nothing
    has started so many processes.

    Raises:
        UserError: SLURM's lists of nodes or tasks, or MASTER_PORT, cannot be read.
    """
    rank, count = _srun_rank_and_count(environment)
    if count == 1:
        return None
    nodes = expand_nodes(_first(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") or "")
    tasks = _first(environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    per_node = expand_counts(tasks) if tasks else _spread(count, len(nodes))
    job, step = (int(environment.get(name) or 0) for name in ("SLURM_JOB_ID", STEP))
    return SrunTask(
        rank=rank,
        count=count,
        local_rank=int(environment.get("SLURM_LOCALID", rank)),
        per_node=tuple(per_node),
        nodes=tuple(nodes),
        address=environment.get("MASTER_ADDR") or nodes[0],
        port=_given_port(environment) or _FIRST_PORT + (101 * job + step) % _PORTS,
        name=f"{job}.{step}",
    )


def _srun_rank_and_count(environment: Mapping[str, str]) -> tuple[int, int]:
    """Of the step that srun has started; 0 of 1 where there is none."""
    step, rank = environment.get(STEP, ""), environment.get("SLURM_PROCID", "")
    count = _first(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") or ""
    if not (step.isdecimal() and rank.isdecimal() and count.isdecimal()):
        return 0, 1
    if int(step) >= _FIRST_RESERVED_STEP or "SLURM_PTY_PORT" in environment:
        return 0, 1
    return int(rank), int(count)


def _given_port(environment: Mapping[str, str]) -> int | None:
    text = environment.get("MASTER_PORT") or None
    if text is not None and not (text.isdecimal() and 0 < int(text) < 65536):
        raise UserError(f"MASTER_PORT={text}: expected a port, as 29500.")
    return None if text is None else int(text)


def _first(environment: Mapping[str, str], *names: str) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _spread(count: int, nodes: int) -> list[int]:
    return [count // nodes + (number < count % nodes) for number in range(nodes)]


def rank_and_count(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Number of this process and of all, before they have met."""
    if is_under_torchrun(environment):
        return int(environment.get("RANK", 0)), int(environment["WORLD_SIZE"])
    return _srun_rank_and_count(environment)
