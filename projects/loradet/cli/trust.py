"""The option by which a config from somebody else may call what it likes."""

import argparse

HELP = "let a .yaml config call what it likes, as a program does"


def add_trust(parser: argparse._ActionsContainer) -> None:
    """`--trust`, see `loradet.config.trust`."""
    parser.add_argument("--trust", action="store_true", help=HELP)
