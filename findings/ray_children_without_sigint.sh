#!/usr/bin/env bash
# Ray 2.60.0: a program that a task starts, and SIGINT.
#
# A task (or an actor's method) starts `sleep` by subprocess and sends it SIGINT, as one does to let a training save and
# end. In the driver the same program ends at once, by signal 2.
#
# One would guess that it ends there too: Python resets what it ignores for the programs that it starts.
#
# What happens: nothing. Ray's worker processes block SIGINT in their main thread, a mask is inherited by whatever is
# started, and sleep, as most programs, never looks at it. The signal stays pending for good; SIGTERM works. What is
# started has to unblock it (signal.pthread_sigmask) before it becomes the program.
#
# Ends with status 1 where any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet ray==2.60.0

cat > try.py <<'PYTHON'
import signal
import subprocess
import sys

import ray

UNBLOCK = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT}); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def blocked(pid):
    """Whether SIGINT is, by what the system says of a process."""
    with open(f"/proc/{pid}/status") as file:
        mask = next(line.split()[1] for line in file if line.startswith("SigBlk"))
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def ended(process, number):
    process.send_signal(number)
    try:
        return f"ended by {-process.wait(3)}"
    except subprocess.TimeoutExpired:
        return "goes on"


def children():
    plain = subprocess.Popen(["sleep", "60"])
    found = [f"blocked {blocked(plain.pid)}", f"SIGINT: {ended(plain, signal.SIGINT)}"]
    found.append(f"SIGTERM: {ended(plain, signal.SIGTERM)}" if plain.poll() is None else "")
    unblocked = subprocess.Popen([sys.executable, "-c", UNBLOCK, "sleep", "60"])
    while open(f"/proc/{unblocked.pid}/comm").read() != "sleep\n":
        pass
    found.append(f"unblocked, SIGINT: {ended(unblocked, signal.SIGINT)}")
    return "; ".join(filter(None, found))


@ray.remote
class Actor:
    def children(self):
        return children()


print("driver:", children())
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
print("task:", ray.get(ray.remote(children).remote()))
print("actor:", ray.get(Actor.remote().children.remote()))
PYTHON

cat > expected.txt <<'TEXT'
driver: blocked False; SIGINT: ended by 2; unblocked, SIGINT: ended by 2
task: blocked True; SIGINT: goes on; SIGTERM: ended by 15; unblocked, SIGINT: ended by 2
actor: blocked True; SIGINT: goes on; SIGTERM: ended by 15; unblocked, SIGINT: ended by 2
TEXT
venv/bin/python try.py 2>stderr.txt | tee found.txt
diff expected.txt found.txt
