"""Sections of a benchmark that go well, fail, hang, or end their process."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def good(bench):
    yield {"case": bench.device, "seconds": 0.5}
    yield {"case": "pid", "pid": os.getpid()}


def fails(bench):  # noqa: ARG001
    yield {"case": "before", "seconds": 1.0}
    raise RuntimeError("CUDA error: an illegal\nmemory access")


def hangs(bench):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(bench.device).write_text(f"{child.pid}\n{tempfile.mkdtemp()}")
    yield {"case": "before", "seconds": 1.0}
    time.sleep(60)


def dies(bench):  # noqa: ARG001
    yield {"case": "before", "seconds": 1.0}
    os._exit(7)
