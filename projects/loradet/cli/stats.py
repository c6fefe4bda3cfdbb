"""Print a config's parameters and FLOPs by backbone, neck and head. No data set and no weights are needed.

loradet stats --config-file configs/quickstart.py
loradet stats --config-file configs/custom_coco.py --input-size 640 1024 --json stats.json model.num_classes=2
"""

import argparse

from loradet.cli.overrides import CONFIG_HELP, HELP, split_overrides
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet stats`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=f"{HELP}; a config may stand first instead")
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="in pixels; default: the largest test image of the config (landscape)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the counts as JSON too")
    add_trust(parser)
    arguments = parser.parse_intermixed_args(argv)
    named, overrides = split_overrides(arguments.words)
    configs = named if arguments.config_file is None else [arguments.config_file, *named]
    if len(configs) != 1:
        parser.error(f"expected one config; got {', '.join(configs) or 'none'}")
    if arguments.input_size and min(arguments.input_size) < 1:
        parser.error("--input-size: expected a height and a width in pixels")

    with errors_in_one_line():
        from loradet.config import load_config
        from loradet.files import write_json
        from loradet.inference.model_cost import count_config

        statistics = count_config(
            load_config(configs[0], overrides, trusted=arguments.trust, needs_data=False),
            arguments.input_size and tuple(arguments.input_size),
        )
        print(statistics)
        if arguments.json:
            write_json(arguments.json, statistics.to_dict())
