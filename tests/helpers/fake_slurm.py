"""A cluster of one machine: stands for sbatch, srun, sacct, scontrol and scancel, by the name it is called by.

$FAKE_SLURM is a folder with one line a call in `calls`, and `<job>.json` with pids and state of each job. Several nodes
are this machine by several of its addresses, with one task each; $FAKE_SLURM_ABSENT is one that never begins.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("FAKE_SLURM", "."))
TOOLS = ("sbatch", "srun", "sacct", "scontrol", "scancel")


def install(folder: Path) -> Path:
    """Make the commands; returns the folder for PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name in TOOLS:
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {name} "$@"\n')
        program.chmod(0o755)
    return programs


def note(job: str, **values) -> dict:
    file = HOME / f"{job}.json"
    content = {**(json.loads(file.read_text()) if file.is_file() else {}), **values}
    temporary = file.with_name(f".{job}.{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)
    return content


def sbatch(script: str) -> None:
    job = str(100 + len(list(HOME.glob("*.json"))))
    array = re.search(r"--array=0-(\d+)", Path(script).read_text())
    text = HOME / f"{job}.sh"
    text.write_text(Path(script).read_text())
    names = [job] if array is None else [f"{job}_{i}" for i in range(int(array[1]) + 1)]
    for name in names:
        note(name, state="PENDING")
    for name in names:
        begin(name, text)
    print(f"Submitted batch job {job}")


def begin(name: str, script: Path) -> None:
    first, _, index = name.partition("_")
    nodes = re.search(r"--nodes=(\d+)", script.read_text())
    count = nodes[1] if nodes else "1"
    names = "127.0.0.1" if count == "1" else f"127.0.0.[1-{count}]"
    # As a batch script has them: they are of the first task, but no step has begun.
    variables = dict(SLURM_JOB_ID=name.replace("_", "0"), SLURM_NTASKS=count, SLURM_JOB_NUM_NODES=count)
    variables |= dict(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NODELIST=names)
    variables |= dict(SLURM_TASKS_PER_NODE=f"1(x{count})", FAKE_SLURM_JOB=name)
    if index:
        variables |= dict(SLURM_ARRAY_JOB_ID=first, SLURM_ARRAY_TASK_ID=index)
    with (HOME / f"{name}.out").open("ab") as output:
        subprocess.Popen(
            [sys.executable, __file__, "node", name, str(script)],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def node(name: str, script: str) -> None:
    """What the machine does with a job: run it, again where it was queued again meanwhile."""
    while True:
        note(name, state="RUNNING", requeued=False)
        code = subprocess.call(["bash", script])
        if not note(name)["requeued"]:
            note(name, state="COMPLETED" if code == 0 else "FAILED")
            return


def srun(*words: str) -> None:
    command = list(words[next(i for i, word in enumerate(words) if "python" in Path(word).name) :])
    tasks = []
    for rank in map(str, range(int(os.environ["SLURM_NTASKS"]))):
        if rank != os.environ.get("FAKE_SLURM_ABSENT"):
            place = dict(SLURM_STEP_ID="0", SLURM_PROCID=rank, SLURM_NODEID=rank)
            tasks.append(subprocess.Popen(command, env={**os.environ, **place}))
    note(os.environ["FAKE_SLURM_JOB"], pids=[task.pid for task in tasks])
    sys.exit(max([task.wait() for task in tasks], key=abs))


def sacct(*words: str) -> None:
    wanted = {words[i + 1] for i, word in enumerate(words) if word == "-j"}
    print("JobID|State|NodeList")
    for file in HOME.glob("*.json"):
        if file.stem.partition("_")[0] in wanted:
            print(f"{file.stem}|{json.loads(file.read_text())['state']}|127.0.0.1")


def scontrol(action: str, job: str) -> None:
    assert action == "requeue"
    note(job, requeued=True)


def scancel(job: str, option: str, name: str) -> None:
    assert option == "--signal"
    while not (pids := note(job).get("pids")):
        time.sleep(0.01)
    for pid in pids:
        os.kill(pid, getattr(signal, f"SIG{name.removeprefix('SIG')}"))


if __name__ == "__main__":
    tool, *arguments = sys.argv[1:]
    with (HOME / "calls").open("a") as calls:
        calls.write(f"{shlex.join([tool, *arguments])}\n")
    {"sbatch": sbatch, "srun": srun, "sacct": sacct, "scontrol": scontrol, "scancel": scancel, "node": node}[tool](
        *arguments
    )
