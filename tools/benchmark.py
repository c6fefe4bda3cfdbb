#!/usr/bin/env python
"""Measure training steps, inference, the loader or the evaluation of any config.

`throughput` splits inference over a split into waiting for data, forward pass and post-processing.
`train --bare` interleaves our step with the same modules in a bare PyTorch loop and prints the median ratio.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "infer", "throughput", "loader", "eval"))
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, help="measured steps (default: 50; 1 for eval)")
    parser.add_argument("--warmup", type=int, help="steps before those (default: 5; 0 for eval)")
    parser.add_argument("--bare", action="store_true", help="train: against a bare loop, interleaved")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config keys to change")
    arguments = parser.parse_intermixed_args()
    if arguments.bare and arguments.part != "train":
        parser.error("--bare goes with train")

    from tabulate import tabulate

    import loradet  # noqa: F401
    from loradet.experiments.benchmark import benchmark
    from loradet.files import write_json
    from loradet.training.command import USER_ERRORS, load_config

    whole_pass = arguments.part == "eval"
    try:
        result = benchmark(
            load_config(arguments.config_file, arguments.overrides),
            arguments.part,
            steps=arguments.steps or (1 if whole_pass else 50),
            warmup=(0 if whole_pass else 5) if arguments.warmup is None else arguments.warmup,
            bare=arguments.bare,
        )
        if arguments.json:
            write_json(arguments.json, result)
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")
    print(tabulate(result.items(), headers=(arguments.part, arguments.config_file), floatfmt=".4g"))


if __name__ == "__main__":
    main()
