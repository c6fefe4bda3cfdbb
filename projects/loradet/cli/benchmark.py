"""Measure training steps, their memory, inference, the loader or the evaluation of any config.

`train --bare` interleaves our step with the same modules in a bare PyTorch loop and prints the median ratio;
`train --against OTHER` interleaves the steps of two configs on the same images.
`cache` interleaves a step whose frozen features are kept (`train.feature_cache`) with one that computes them.
`memory` runs a few training steps in a process of its own and prints what they hold at most, beside another config's.
`scan` measures the selective scan of Vision Mamba: `scan --help`.
`metrics` measures COCO metrics, the bootstrap's matching and calibration: `metrics --help`.
`pixels` measures reading and resizing of samples: `pixels --help`.
`augment` measures samples under the presets of augmentation: `augment --help`.
`annotations` measures reading a large annotation file: `annotations --help`.
`gpu` measures one GPU in a few minutes: `gpu --help`.
`throughput` splits inference over a split into waiting for data, forward pass and post-processing.

    loradet benchmark train --config-file A.py --against B.py --random-images 512 512 model.num_classes=10
"""

import argparse
import importlib
import sys
from pathlib import Path

from loradet.cli.overrides import CONFIG_HELP, add_overrides
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line

MEASURED = ("train", "cache", "memory", "infer", "throughput", "loader", "eval")
STEPS = {"eval": 1, "memory": 3}
# Which parts take an option; those not listed are taken by all.
PARTS = {
    "bare": ("train",),
    "against": ("train", "memory"),
    "against_overrides": ("train", "memory"),
    "random_images": ("train", "cache", "memory"),
    "objects": ("train", "cache", "memory"),
    "cpu_time": ("cache",),
    "warmup": ("train", "cache", "infer", "throughput", "loader", "eval"),
}
# Parts with options of their own; modules `benchmark_<part>`.
OF_THEIR_OWN = ("scan", "metrics", "pixels", "augment", "annotations", "gpu")
NEEDS = {"against_overrides": "against", "objects": "random_images"}


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The part and its options, with defaults; an option that the part does not take is refused."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=(*MEASURED, *OF_THEIR_OWN), help="what to measure")
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--steps", type=int, metavar="N", help="measured steps, or pairs of steps (50; memory: 3; eval: 1)"
    )
    parser.add_argument(
        "--warmup", type=int, metavar="N", help="steps before those, not measured (5; eval: 0; memory has none)"
    )
    parser.add_argument("--bare", action="store_true", default=None, help="train: against a bare loop, interleaved")
    parser.add_argument("--against", metavar="FILE", help="train, memory: another config; train: interleaved")
    parser.add_argument(
        "--against-overrides", nargs="+", metavar="KEY=VALUE", help="keys to change in the other config alone"
    )
    parser.add_argument(
        "--random-images",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="train, cache, memory: noise of that size instead of the data set",
    )
    parser.add_argument("--objects", type=int, metavar="N", help="boxes in each of those (10)")
    parser.add_argument(
        "--cpu-time", action="store_true", default=None, help="cache: seconds that the process computes, not the wall's"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    add_trust(parser)
    add_overrides(parser, "config keys to change, in both configs")
    arguments = parser.parse_intermixed_args(argv)
    if (part := arguments.part) in OF_THEIR_OWN:
        parser.error(f"{part} comes first and has options of its own: {part} --help")
    for name, parts in PARTS.items():
        if getattr(arguments, name) is not None and arguments.part not in parts:
            parser.error(f"--{name.replace('_', '-')} goes with {', '.join(parts)}")
    for name, other in NEEDS.items():
        if getattr(arguments, name) is not None and getattr(arguments, other) is None:
            parser.error(f"--{name.replace('_', '-')} needs --{other.replace('_', '-')}")
    if arguments.bare and arguments.against:
        parser.error("--bare and --against: one at a time")
    least = 2 if arguments.part == "memory" else 1
    if arguments.steps is not None and arguments.steps < least:
        parser.error(f"--steps {arguments.steps}: expected at least {least}")
    _fill_defaults(arguments)
    return arguments


def _fill_defaults(arguments: argparse.Namespace) -> None:
    arguments.bare = bool(arguments.bare)
    arguments.against_overrides = arguments.against_overrides or []
    if arguments.steps is None:
        arguments.steps = STEPS.get(arguments.part, 50)
    if arguments.warmup is None:
        arguments.warmup = 0 if arguments.part == "eval" else 5
    if arguments.objects is None:
        arguments.objects = 10


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet benchmark`."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in OF_THEIR_OWN:
        module = importlib.import_module(f"loradet.cli.benchmark_{words[0]}")
        module.main(words[1:], f"{prog} {words[0]}" if prog else None)
        return
    arguments = parse_arguments(words, prog)

    from tabulate import tabulate

    with errors_in_one_line():
        from loradet.benchmarks.command import run_benchmark
        from loradet.files import write_json

        result = run_benchmark(arguments)
        if arguments.json:
            write_json(arguments.json, result)
    rows = [(name, _shown(value)) for name, value in result.items()]
    print(tabulate(rows, headers=(arguments.part, arguments.config_file), disable_numparse=True))
