"""Measure samples a second of the project's mapper against Detectron2's on the same files, in interleaved pairs.

Files are painted: `jpeg`, 2000x1500 at about 0.15 MB a megapixel; `fine-jpeg`, the same at about 0.5; `small-jpeg` and
`png`, 640x480. Both mappers read, resize to a shorter edge and flip, with seven boxes, in one thread. The ratio is
Detectron2's CPU time over ours. Boxes must be the same, and pixels but for one level in 0.5 % of the values.
"""

import argparse
from pathlib import Path

from loradet.benchmarks.arguments import refuse_below_one
from loradet.errors import errors_in_one_line

KINDS = ("jpeg", "fine-jpeg", "small-jpeg", "png")


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark pixels`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, help="of files (all in turn)")
    parser.add_argument("--short-edge", type=int, metavar="PIXELS", default=800, help="after resizing (800)")
    parser.add_argument("--files", type=int, metavar="N", default=3, help="painted of a kind (3)")
    parser.add_argument("--pairs", type=int, metavar="N", default=50, help="measured pairs of samples (50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args(argv)
    numbers = {name: getattr(arguments, name) for name in ("short_edge", "files", "pairs")}
    refuse_below_one(parser, numbers)

    from tabulate import tabulate

    with errors_in_one_line():
        from loradet.benchmarks.pixels import benchmark_pixels
        from loradet.files import write_json

        kinds = [arguments.kind] if arguments.kind else KINDS
        result = {kind: benchmark_pixels(kind, **numbers) for kind in kinds}
        if arguments.json:
            write_json(arguments.json, result)
    rows = [(name, *(figures[name] for figures in result.values())) for name in next(iter(result.values()))]
    print(tabulate(rows, headers=("", *result), floatfmt=".4g"))
