#!/usr/bin/env python
"""Print finished runs side by side: AP, parameters by part, adapter size, speed and time."""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument("--split", default="val", help="whose metrics to show (%(default)s)")
    arguments = parser.parse_args()

    try:
        from loradet.errors import errors_in_one_line
        from loradet.experiments.compare import comparison
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        sys.exit(f"error: {error}")

    with errors_in_one_line():
        print(comparison(arguments.runs, arguments.split))


if __name__ == "__main__":
    main()
