"""Numbers on the command lines of benchmarks."""

import argparse
from collections.abc import Mapping


def refuse_below_one(parser: argparse.ArgumentParser, numbers: Mapping[str, int]) -> None:
    """End with the parser's error (status 2) where one of the numbers, by their names in Python, is under 1."""
    for name, value in numbers.items():
        if value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: expected at least 1")
