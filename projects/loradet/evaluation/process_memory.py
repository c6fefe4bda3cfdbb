"""Peak memory of this process."""

import re
import resource
import sys
from pathlib import Path


def process_peak_mb() -> float:
    """The most memory that this process ever held, resident, in MiB."""
    # Linux counts it in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def status_mb(field: str) -> float:
    """A figure of Linux's `/proc/self/status` in MiB, as VmRSS or VmHWM; elsewhere the most that was ever held."""
    status = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE) if status.is_file() else None
    return int(found[1]) / 2**10 if found else process_peak_mb()
