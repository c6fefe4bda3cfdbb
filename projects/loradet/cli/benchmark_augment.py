"""Measure samples a second under each preset of augmentation (`data.augment`) against `basic`, in interleaved pairs.

Samples are the first of the config's training, read from its files and mapped in one thread; ratios are the preset's
CPU time over that of `basic`. `pixels_over_basic` is how much larger images are, which the training step pays for.

    loradet benchmark augment --config-file configs/custom_coco.py data.root=PATH
"""

import argparse
from pathlib import Path

from loradet.benchmarks.arguments import refuse_below_one
from loradet.cli.overrides import CONFIG_HELP, add_overrides
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark augment`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--presets", nargs="+", metavar="NAME", default=[], help="which of them (all but basic)")
    parser.add_argument("--pairs", type=int, metavar="N", default=200, help="measured pairs of samples (200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    add_trust(parser)
    add_overrides(parser)
    arguments = parser.parse_intermixed_args(argv)
    refuse_below_one(parser, {"pairs": arguments.pairs})

    from tabulate import tabulate

    with errors_in_one_line():
        from loradet.benchmarks.augment import benchmark_augment
        from loradet.config import load_config
        from loradet.files import write_json

        cfg = load_config(arguments.config_file, arguments.overrides, trusted=arguments.trust)
        result = benchmark_augment(cfg, arguments.presets, pairs=arguments.pairs)
        if arguments.json:
            write_json(arguments.json, result)
    rows = [(name, *(figures[name] for figures in result.values())) for name in next(iter(result.values()))]
    print(tabulate(rows, headers=("", *result), floatfmt=".4g"))
