"""Evaluate a checkpoint or an adapter on splits of a config's data.

Examples:
    loradet evaluate --config-file work_dirs/mine/config.yaml
    loradet evaluate --config-file work_dirs/mine/config.yaml --checkpoint a.safetensors \\
        --split test --output-json test.json
    loradet evaluate --config-file work_dirs/mine/config.yaml --tiles 640 --flip
"""

import argparse

from loradet.cli.overrides import CONFIG_HELP
from loradet.cli.train import add_evaluation, add_launch, run
from loradet.cli.views import add_views, views_of


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The options, as `loradet.cli.train.run` takes them."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for metrics, predictions and log; default: eval_<checkpoint>/ in train.output_dir, "
        "eval_<checkpoint>_<views>/ with tiles and the like",
    )
    add_evaluation(parser)
    add_views(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="views of an image at a time (1)")
    add_launch(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.output_json and not arguments.split:
        parser.error("--output-json needs --split")
    arguments.views = views_of(parser, arguments)
    if arguments.batch_size is not None and (arguments.views is None or arguments.batch_size < 1):
        parser.error("--batch-size: expected 1 or more, with --tiles, --flip or --scales: images go one by one")
    arguments.batch_size = arguments.batch_size or 1
    arguments.command, arguments.eval_only, arguments.resume = "evaluate", True, False
    return arguments


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`loradet evaluate`; returns the exit status."""
    return run(parse_arguments(argv, prog))
