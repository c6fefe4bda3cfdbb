"""Take the weights out of a pickle, as Detectron2's model zoo has them, into a file that is safe to load.

    loradet weights convert model_final_280758.pkl faster_rcnn_R_50_FPN.safetensors

To unpickle a file is to run whatever it says. This tool reads numpy arrays, numbers, strings and plain containers;
a file that names anything else is refused with the name, and nothing of it is run.
"""

import argparse
from pathlib import Path

from loradet.cli.overrides import add_output, output_of
from loradet.errors import errors_in_one_line


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The two files."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="FILE.pkl", help="a pickle of weights")
    add_output(parser, "file to write: .safetensors or .pth")
    arguments = parser.parse_intermixed_args(argv)
    arguments.output = output_of(parser, arguments)
    return arguments


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet weights convert`."""
    arguments = parse_arguments(argv, prog)

    with errors_in_one_line():
        from loradet.training.checkpoints.pickled_weights import convert_weights

        weights = convert_weights(arguments.source, arguments.output)
    size = arguments.output.stat().st_size / 1e6
    print(f"Written: {arguments.output} ({len(weights.tensors)} tensors, {size:.1f} MB)")
    if weights.left_out:
        print(f"Left out: {', '.join(weights.left_out)}")
    if weights.backbone_only:
        print("It holds a backbone alone: take it as the backbone's `weights`, or as train.init_checkpoint.")
