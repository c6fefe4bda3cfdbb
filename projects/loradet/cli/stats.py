"""Print a config's parameters and FLOPs by backbone, neck and head. No data set and no weights are needed.

loradet stats configs/quickstart.py
loradet stats configs/custom_coco.py --input-size 640 1024 --json stats.json model.num_classes=2
"""

import argparse

from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet stats`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="LazyConfig file (.py, or a saved .yaml)")
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="in pixels; default: the largest test image of the config (landscape)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the counts as JSON too")
    add_trust(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config keys to change")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.input_size and min(arguments.input_size) < 1:
        parser.error("--input-size: expected a height and a width in pixels")

    with errors_in_one_line():
        from loradet.config import load_config
        from loradet.files import write_json
        from loradet.inference.model_cost import count_config

        statistics = count_config(
            load_config(arguments.config, arguments.overrides, trusted=arguments.trust, needs_data=False),
            arguments.input_size and tuple(arguments.input_size),
        )
        print(statistics)
        if arguments.json:
            write_json(arguments.json, statistics.to_dict())
