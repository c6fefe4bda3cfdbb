"""A number from 0 to 1 on the command line."""

import argparse


def fraction(text: str) -> float:
    """For argparse's `type`. Raises ArgumentTypeError for what is none, NaN too."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value
