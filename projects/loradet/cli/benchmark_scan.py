"""Measure the chunked selective scan on the CPU against a loop over the steps, in interleaved pairs.

The ratio is the other side's time over the chunked scan's. `written-out` holds exp(delta A) and delta B u for all
steps; `lean` holds one step's state at a time. The size is that of a ViM-Tiny block at 640×640 unless told otherwise.
"""

import argparse
from pathlib import Path

from loradet.benchmarks.arguments import refuse_below_one
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark scan`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", choices=("written-out", "lean"), default="written-out")
    parser.add_argument("--backward", action="store_true", help="forward and backward, not forward alone")
    parser.add_argument("--pairs", type=int, default=50, help="measured pairs (50)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--batch", type=int, default=1, help="(1)")
    parser.add_argument("--channels", type=int, default=384, help="(384)")
    parser.add_argument("--state", type=int, default=16, help="(16)")
    parser.add_argument("--length", type=int, default=1600, help="(1600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    arguments = parser.parse_args(argv)
    numbers = {name: getattr(arguments, name) for name in ("pairs", "batch", "channels", "state", "length")}
    refuse_below_one(parser, {**numbers, "threads": arguments.threads})

    import torch
    from tabulate import tabulate

    with errors_in_one_line():
        from loradet.benchmarks.scan import benchmark_scan
        from loradet.files import write_json

        torch.set_num_threads(arguments.threads)
        result = benchmark_scan(arguments.against, backward=arguments.backward, **numbers)
        if arguments.json:
            write_json(arguments.json, result)
    print(tabulate(result.items(), floatfmt=".4g"))
