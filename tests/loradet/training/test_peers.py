"""The end of one process is that of all, also of those that wait where nothing reaches them."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.launched import PATH

# Of three processes one ends; the others wait in no collective operation, as a busy GPU's do.
SCRIPT = """
import os, signal, sys, time
import torch
from loradet.training import peers

rank, how, who, rendezvous = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
peers.GRACE_S = 1.0
torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=3)
with peers.Peers("localhost"):
    torch.distributed.barrier()
    time.sleep(0.5)
    if how == "leaves" or rank == who:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "fails":
            raise SystemExit(3)
    else:
        time.sleep(120)
if how == "leaves":
    time.sleep(2.0 * rank)  # one after the other
print("left")
"""


def run(tmp_path, how, who):
    """Exit status, output and errors of each process."""
    words = [how, str(who), (tmp_path / "rendezvous").as_uri()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), *words],
            env={**os.environ, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    texts = [process.communicate(timeout=110) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts)]


def errors(found):
    return [line for _, _, text in found for line in text.splitlines() if line.startswith("error")]


@pytest.mark.parametrize("who", [2, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_all_and_is_named_once(tmp_path, who):
    began = time.monotonic()
    found = run(tmp_path, "dies", who)
    assert [status for status, _, _ in found] == [-signal.SIGKILL if rank == who else 1 for rank in range(3)]
    (line,) = errors(found)
    speaker = 1 if who == 0 else 0
    assert re.match(rf"error \(process {speaker}\): process {who} of 3 \(.*on .*\) has died, ", line)
    assert line in found[speaker][2]
    assert time.monotonic() - began < 100


@pytest.mark.slow
def test_a_process_that_fails_ends_all_and_speaks_for_itself(tmp_path):
    found = run(tmp_path, "fails", 1)
    assert [status for status, _, _ in found] == [1, 3, 1]
    assert errors(found) == []


@pytest.mark.slow
def test_processes_that_are_done_leave_one_after_the_other(tmp_path):
    found = run(tmp_path, "leaves", 0)
    assert [(status, output) for status, output, _ in found] == [(0, "left\n")] * 3
    assert errors(found) == []
