"""What a forked process does: one training, as `loradet train` would."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import torch

# What trainings import on their way, so that it is there before the fork.
import torch.utils.tensorboard
from detectron2.config import LazyConfig
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import TOOL, tool
from omegaconf import OmegaConf

from campaign import file_faults
from campaign.commits import Commits
from campaign.fork_server import Request
from loradet.training.command import run_command

torch.set_num_threads(1)
# The parser of interpolations learns from what it reads, slowly.
OmegaConf.to_container(LazyConfig.load(str(TEST_CONFIGS / "tiny.py")), resolve=False)


def train(request: Request, rank: int, port: int, output: int) -> NoReturn:
    """Be the process `rank` of a training and print into `output`; leaves by SystemExit, as the command does."""
    _redirect(output)
    os.environ.update(request.environment)
    if request.processes > 1:
        world = {"WORLD_SIZE": request.processes, "LOCAL_WORLD_SIZE": request.processes, "MASTER_PORT": port}
        given = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", **world}
        os.environ.update({name: str(value) for name, value in given.items()})
    kill = request.kill
    kill_at = kill.commit if kill is not None and kill.rank == rank else None
    trace = Path(request.trace) if request.trace is not None and rank == 0 else None
    if kill_at is not None or trace is not None:
        Commits(trace=trace, kill_at=kill_at, when=kill.when if kill is not None else "before").install()
    if request.fault is not None:
        file_faults.install(*request.fault, Path(request.folder))
    sys.argv = [str(TOOL), *request.words]
    sys.exit(run_command(tool.parse_arguments(request.words)))


def _redirect(output: int) -> None:
    """Read nothing, and print elsewhere than the server answers."""
    sys.stdin.close()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
