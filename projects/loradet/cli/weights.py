"""Take weights out of pickles, and backbones out of checkpoints.

loradet weights convert model_final_280758.pkl faster_rcnn_R_50_FPN.safetensors
loradet weights export work_dirs/mine/model_best.pth backbone.safetensors
"""

import argparse
import importlib

PARTS = {"convert": "a pickle of Detectron2's model zoo to a safe file", "export": "the backbone of a checkpoint"}


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet weights`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for part, what in PARTS.items():
        parts.add_parser(part, help=what, add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    importlib.import_module(f"loradet.cli.weights_{arguments.part}").main(rest, f"{parser.prog} {arguments.part}")
