"""Measure reading a large annotation file as dataset dicts against `json.load` of it, and what a data process adds.

A file of random boxes is written. The dicts must be what it says before anything is measured; each measurement has a
process of its own, and sides take turns. The ratios are ours over `json.load`'s.
"""

import argparse
from pathlib import Path

from loradet.benchmarks.arguments import refuse_below_one
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark annotations`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, metavar="N", default=200_000, help="in the file (200000)")
    parser.add_argument("--boxes", type=int, metavar="N", default=2_000_000, help="in the file (2000000)")
    parser.add_argument("--pairs", type=int, metavar="N", default=5, help="measured pairs (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args(argv)
    numbers = {name: getattr(arguments, name) for name in ("images", "boxes", "pairs")}
    refuse_below_one(parser, numbers)

    from tabulate import tabulate

    with errors_in_one_line():
        from loradet.benchmarks.annotations import benchmark_annotations
        from loradet.files import write_json

        result = benchmark_annotations(**numbers)
        if arguments.json:
            write_json(arguments.json, result)
    print(tabulate(result.items(), floatfmt=".4g"))
