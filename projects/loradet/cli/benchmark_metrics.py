"""Measure COCO metrics, the bootstrap's matching or calibration against the same by pycocotools, in interleaved pairs.

The ratio is pycocotools' time over ours. Random boxes and detections are written to files and read from there; results
must be equal to the last digit before time is taken.
"""

import argparse
from pathlib import Path

from loradet.benchmarks.arguments import refuse_below_one
from loradet.errors import errors_in_one_line

IMAGES = {"metrics": 5000, "bootstrap": 1000, "calibration": 1000}


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark metrics`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=tuple(IMAGES), default="metrics", help="what to measure (metrics)")
    parser.add_argument("--memory", action="store_true", help="peak memory of the metrics instead, a process each")
    parser.add_argument("--images", type=int, metavar="N", help="with seven boxes each (5000; other parts: 1000)")
    parser.add_argument("--detections", type=int, metavar="N", default=100, help="an image (100)")
    parser.add_argument("--classes", type=int, metavar="N", default=80, help="of the boxes (80)")
    parser.add_argument("--pairs", type=int, metavar="N", default=5, help="measured pairs (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args(argv)
    if arguments.memory and arguments.part != "metrics":
        parser.error("--memory goes with --part metrics")
    if arguments.images is None:
        arguments.images = IMAGES[arguments.part]
    numbers = {name: getattr(arguments, name) for name in ("images", "detections", "classes", "pairs")}
    refuse_below_one(parser, numbers)

    from tabulate import tabulate

    with errors_in_one_line():
        from loradet.benchmarks.metrics import benchmark_metrics, metrics_memory
        from loradet.files import write_json

        result = metrics_memory(**numbers) if arguments.memory else benchmark_metrics(arguments.part, **numbers)
        if arguments.json:
            write_json(arguments.json, result)
    print(tabulate(result.items(), floatfmt=".4g"))
