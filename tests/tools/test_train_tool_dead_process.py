"""One of two processes is killed in the middle of a training: the job ends, soon, and says which."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest
from helpers.launched import PATH, free_port, srun
from helpers.train_tool import arguments, descendants_alive, lines, start, wait_for

# With processes that read data, which are forked and outlive theirs for a while.
LONG = ["train.max_iter=2000", "train.eval_period=0", "dataloader.train.num_workers=1", "train.checkpointer.period=4"]
ENDS_WITHIN_S = 60
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def by_num_gpus(data, folder):
    return [start(*arguments(data, folder, *LONG, "--num-gpus", "2"), PYTHONPATH=PATH)]


def by_torchrun(data, folder):
    return [start(*arguments(data, folder, *LONG), launcher=TORCHRUN, PYTHONPATH=PATH)]


def by_srun(data, folder):
    return srun(arguments(data, folder, *LONG), port=free_port())


def pid_of(folder, rank):
    """The process that writes the log of a rank."""
    log = folder / ("log.txt" if rank == 0 else f"log.txt.rank{rank}")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                files = {file.readlink() for file in (entry / "fd").iterdir()}
                if log in files:
                    return int(entry.name)
    raise AssertionError(f"nobody writes {log}")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("launch", [by_num_gpus, by_torchrun, by_srun])
def test_a_process_that_is_killed_ends_the_job(train_data, tmp_path, launch, rank):
    folder = tmp_path / "out"
    processes = launch(train_data, folder)
    wait_for(lambda: any(line["iteration"] >= 5 for line in lines(folder)), processes[0], seconds=900)
    killed = pid_of(folder, rank)
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    texts = [process.communicate(timeout=300)[1] for process in processes]
    for process in processes:
        while descendants_alive(process.pid):
            time.sleep(0.1)
    seconds = time.monotonic() - began
    print(f"{launch.__name__}, process {rank}: all ended {seconds:.1f} s after it was killed")
    assert seconds < ENDS_WITHIN_S
    expected = [1] * len(processes)
    if launch is by_srun:
        expected[rank] = -signal.SIGKILL
    assert [process.returncode for process in processes] == expected, texts
    told = [line for text in texts for line in text.splitlines() if line.startswith("error")]
    (line,) = told
    if launch is by_num_gpus:
        assert line == f"error (process {rank}): ended by SIGKILL."
    else:
        assert f"process {rank} of 2 " in line
        assert "has died" in line
    # The last checkpoint is whole, and the lock is free.
    assert (folder / (folder / "last_checkpoint").read_text()).is_file()
    assert json.loads((folder / "run.json").read_text())["status"] != "finished"
