"""Peak memory of this process."""

import resource
import sys


def process_peak_mb() -> float:
    """The most memory that this process ever held, resident, in MiB."""
    # Linux counts it in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
