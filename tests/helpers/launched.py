"""Trainings under launchers: tasks as srun starts them, and a process group that somebody else has made."""

import json
import os
import subprocess
import threading
from pathlib import Path

import torch
from detectron2.utils import comm

import loradet
from helpers.paths import TESTS
from helpers.train_tool import start

# With the project that these tests are of, where another one is installed.
PATH = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))


def srun_variables(rank: int, *, port: int, tasks: int = 2, nodes: str = "localhost", per_node: str = "2") -> dict:
    """What srun says to a task of the first step of a job; the first node is this machine."""
    return {
        "SLURM_JOB_ID": "17",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NTASKS": str(tasks),
        "SLURM_TASKS_PER_NODE": per_node,
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "MASTER_PORT": str(port),
        "PYTHONPATH": PATH,
    }


def srun(words: list[str], *, port: int, ranks: tuple[int, ...] = (0, 1), **variables: str) -> list[subprocess.Popen]:
    """The training tool as tasks of one step."""
    return [start(*words, **{**srun_variables(rank, port=port), **variables}) for rank in ranks]


def free_port() -> int:
    """A port that nobody listens at now."""
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return store.port


def train_in_group(rank: int, rendezvous: str, config: str, words: list[str], folder: str, with_tool: bool) -> None:
    """Train inside a gloo group of two, as Ray's workers do: in a thread; note what is there afterwards."""
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    failed = []

    def train():
        try:
            if with_tool:
                from helpers.train_tool import call

                status, text = call("--config-file", config, *words)
                assert status == 0, text
            else:
                loradet.train(config, words)
        except BaseException as error:
            failed.append(repr(error))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    row = torch.ones(1)
    torch.distributed.all_reduce(row)  # the group still works
    found = {"failed": failed, "sum": row.item(), "local": [comm.get_local_rank(), comm.get_local_size()]}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
