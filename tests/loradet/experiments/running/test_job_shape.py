"""Nodes, tasks and GPUs of a run's job."""

import pytest

from loradet.errors import UserError
from loradet.experiments.running.job_shape import JobShape
from loradet.experiments.running.run import Launch


@pytest.mark.parametrize(
    ("num_gpus", "given", "nodes", "processes", "told"),
    [
        (1, {}, 1, 1, {"gpus_per_node": 1}),
        (4, {}, 1, 4, {"gpus_per_node": 4}),
        (4, {"gpus_per_node": 8}, 1, 4, {"gpus_per_node": 8}),
        (1, {"gpus_per_node": 4, "nodes": 2}, 2, 4, {"gpus_per_node": 4}),
        (1, {"tasks_per_node": 4, "cpus_per_task": 8, "nodes": 3}, 3, 4, {"gpus_per_node": 4, "cpus_per_task": 32}),
        (4, {"tasks_per_node": 4}, 1, 4, {"gpus_per_node": 4}),
        (2, {"gpus_per_node": 0}, 1, 2, {"gpus_per_node": 0}),
        (1, {"cpus_per_task": 8}, 1, 1, {"gpus_per_node": 1}),
    ],
)
def test_a_run_has_a_process_for_each_task_or_gpu_of_its_nodes(num_gpus, given, nodes, processes, told):
    shape = JobShape.of(Launch(num_gpus=num_gpus), given, "slurm")
    assert (shape.nodes, shape.processes) == (nodes, processes)
    assert shape.parameters == {"nodes": nodes, "tasks_per_node": 1, **told}
    launch = shape.launch(Launch(num_gpus=num_gpus, max_batch_per_gpu=2))
    assert launch == Launch(num_gpus=processes, nodes=nodes, max_batch_per_gpu=2)


@pytest.mark.parametrize(
    ("num_gpus", "given", "cluster", "message"),
    [
        (1, {"nodes": 0}, "slurm", r"--slurm nodes=0: expected a number, 1 or more"),
        (1, {"nodes": "two"}, "slurm", r"--slurm nodes=two: expected a number"),
        (1, {"nodes": 2}, "local", r"--slurm nodes=2: --executor slurm has nodes, slurm-local is one machine"),
        (2, {"tasks_per_node": 4}, "slurm", r"--num-gpus 2 and --slurm tasks_per_node=4: leave one out"),
        (4, {"gpus_per_node": 2}, "slurm", r"--slurm gpus_per_node=2: 4 processes on each node need a GPU each"),
        (1, {"slurm_ntasks_per_node": 4}, "slurm", r"--slurm slurm_ntasks_per_node=4: write tasks_per_node=4"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(num_gpus, given, cluster, message):
    with pytest.raises(UserError, match=message):
        JobShape.of(Launch(num_gpus=num_gpus), given, cluster)
