"""Print finished runs side by side: AP, parameters by part, adapter size, speed and time."""

import argparse
from pathlib import Path

from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet compare`."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument("--split", metavar="NAME", default="val", help="whose metrics to show (%(default)s)")
    arguments = parser.parse_args(argv)

    with errors_in_one_line():
        from loradet.experiments.pages.compare_runs import comparison

        print(comparison(arguments.runs, arguments.split))
