"""Evaluate a checkpoint or an adapter on splits of a config's data.

Examples:
    loradet evaluate --config-file work_dirs/mine/config.yaml
    loradet evaluate --config-file work_dirs/mine/config.yaml --checkpoint a.safetensors \\
        --split test --output-json test.json
"""

import argparse

from loradet.cli.overrides import CONFIG_HELP
from loradet.cli.train import add_evaluation, add_launch, run


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The options, as `loradet.cli.train.run` takes them."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for metrics, predictions and log; default: eval_<checkpoint>/ in train.output_dir",
    )
    add_evaluation(parser)
    add_launch(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.output_json and not arguments.split:
        parser.error("--output-json needs --split")
    arguments.command, arguments.eval_only, arguments.resume = "evaluate", True, False
    return arguments


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`loradet evaluate`; returns the exit status."""
    return run(parse_arguments(argv, prog))
