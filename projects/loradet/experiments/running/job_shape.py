"""Nodes, tasks and GPUs of a job: what submitit's parameters ask for, and how a run is spread over them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from loradet.errors import UserError
from loradet.experiments.running.run import Launch

# Names of SLURM's for what submitit has a name of its own for.
_OTHER_NAMES = {
    "slurm_nodes": "nodes",
    "slurm_ntasks_per_node": "tasks_per_node",
    "slurm_gpus_per_node": "gpus_per_node",
    "slurm_cpus_per_task": "cpus_per_task",
}


@dataclass(frozen=True, kw_only=True)
class JobShape:
    """How a run is spread over the nodes of its job.

    Attributes:
        nodes: of the job.
        processes: of the training on each node.
        parameters: what submitit is told: one task a node, which starts the node's processes.
    """

    nodes: int
    processes: int
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, launch: Launch, parameters: Mapping[str, Any], cluster: str) -> "JobShape":
        """What `--num-gpus` and `--slurm` ask for together.

        A node's processes are `tasks_per_node`, or `--num-gpus`, or `gpus_per_node`: the first one above 1.

        Raises:
            UserError: they contradict each other, are no numbers, or the cluster has no several nodes.
        """
        for name, ours in _OTHER_NAMES.items():
            if name in parameters:
                raise UserError(f"--slurm {name}={parameters[name]}: write {ours}={parameters[name]}.")
        nodes, tasks = (_number(parameters, name, least=1, default=1) for name in ("nodes", "tasks_per_node"))
        gpus = _number(parameters, "gpus_per_node", least=0, default=None)
        if nodes > 1 and cluster != "slurm":
            raise UserError(f"--slurm nodes={nodes}: --executor slurm has nodes, slurm-{cluster} is one machine.")
        processes = next((number for number in (tasks, launch.num_gpus, gpus) if number and number > 1), 1)
        if launch.num_gpus not in (1, processes):
            raise UserError(f"--num-gpus {launch.num_gpus} and --slurm tasks_per_node={tasks}: leave one out.")
        if gpus and gpus < processes:
            raise UserError(f"--slurm gpus_per_node={gpus}: {processes} processes on each node need a GPU each.")
        told: dict[str, Any] = {"nodes": nodes, "tasks_per_node": 1}
        if cluster == "slurm":
            told["gpus_per_node"] = processes if gpus is None else gpus
        # The cores of the tasks that are processes here.
        if tasks > 1 and (cores := _number(parameters, "cpus_per_task", least=1, default=None)):
            told["cpus_per_task"] = tasks * cores
        return cls(nodes=nodes, processes=processes, parameters=told)

    def launch(self, asked: Launch) -> Launch:
        """How the runs of such jobs are carried out."""
        return replace(asked, num_gpus=self.processes, nodes=self.nodes)


def _number(parameters: Mapping[str, Any], name: str, *, least: int, default: int | None) -> int | None:
    number = parameters.get(name, default)
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least):
        raise UserError(f"--slurm {name}={number}: expected a number, {least} or more.")
    return number
