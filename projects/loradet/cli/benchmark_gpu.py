"""Measure one GPU in a few minutes: its rates, training steps and their memory, the scan, the loader, inference.

Weights and images are random, nothing is downloaded. Each section has a cap; one that is cut or fails says so and the
others go on. What is known so far is in the JSON at any time.
"""

import argparse
import sys
from pathlib import Path

from loradet.benchmarks.gpu.sections import SECTIONS
from loradet.errors import errors_in_one_line

OUTPUT = "benchmark_gpu.json"


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark gpu`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [section.name for section in SECTIONS]
    parser.add_argument("--small", action="store_true", help="tiny models and images: to see that all of it runs")
    parser.add_argument("--device", default="auto", help="as train.device (auto)")
    parser.add_argument("--minutes", type=float, metavar="N", default=8.0, help="for all of it (8)")
    parser.add_argument("--sections", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", default=Path(OUTPUT), help=f"the figures ({OUTPUT})")
    arguments = parser.parse_args(argv)
    if not arguments.minutes > 0:
        parser.error(f"--minutes {arguments.minutes:g}: expected more than 0")

    with errors_in_one_line():
        from loradet.benchmarks.gpu.command import run_gpu_benchmark

        nothing = run_gpu_benchmark(arguments)
    if nothing:
        sys.exit("error: nothing was measured.")
