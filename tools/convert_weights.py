#!/usr/bin/env python
"""Take the weights out of a pickle, as Detectron2's model zoo has them, into a file that is safe to load.

    python tools/convert_weights.py model_final_280758.pkl faster_rcnn_R_50_FPN.safetensors

To unpickle a file is to run whatever it says. This tool reads numpy arrays, numbers, strings and plain containers;
a file that names anything else is refused with the name, and nothing of it is run.
"""

import argparse
import sys
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="FILE.pkl")
    parser.add_argument("output", type=Path, help="file to write: .safetensors or .pth")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    try:
        import loradet  # noqa: F401  (before anything of detectron2)
        from loradet.errors import errors_in_one_line
        from loradet.training.pickled_weights import convert_weights
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        sys.exit(f"error: {error}")

    with errors_in_one_line():
        weights = convert_weights(arguments.source, arguments.output)
    size = arguments.output.stat().st_size / 1e6
    print(f"Written: {arguments.output} ({len(weights.tensors)} tensors, {size:.1f} MB)")
    if weights.left_out:
        print(f"Left out: {', '.join(weights.left_out)}")
    if weights.backbone_only:
        print("It holds a backbone alone: take it as the backbone's `weights`, or as train.init_checkpoint.")


if __name__ == "__main__":
    main()
