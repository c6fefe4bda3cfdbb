#!/usr/bin/env python
"""Print a config's parameters and FLOPs by backbone, neck and head. No data set and no weights are needed.

python tools/model_stats.py configs/quickstart.py
python tools/model_stats.py configs/custom_coco.py --input-size 640 1024 --json stats.json model.num_classes=2
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG", help="LazyConfig file (.py, or a saved .yaml)")
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="in pixels; default: the largest test image of the config (landscape)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the counts as JSON too")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config keys to change")
    arguments = parser.parse_intermixed_args()
    if arguments.input_size and min(arguments.input_size) < 1:
        parser.error("--input-size: expected a height and a width in pixels")

    try:
        import loradet  # noqa: F401
        from loradet.config import load_config
        from loradet.errors import errors_in_one_line
        from loradet.files import write_json
        from loradet.inference.model_cost import count_config
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        sys.exit(f"error: {error}")

    with errors_in_one_line():
        statistics = count_config(
            load_config(arguments.config, arguments.overrides, needs_data=False),
            arguments.input_size and tuple(arguments.input_size),
        )
        print(statistics)
        if arguments.json:
            write_json(arguments.json, statistics.to_dict())


if __name__ == "__main__":
    main()
