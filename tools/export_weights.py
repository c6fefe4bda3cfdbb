#!/usr/bin/env python
"""Write the backbone of a detector's checkpoint, or all but the backbone, as a small safetensors file."""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a detector, as model_best.pth")
    parser.add_argument("output", type=Path, help="safetensors file to write; FILE.sha256 goes beside it")
    parser.add_argument("--prefix", default="backbone.bottom_up.net.", help="of the backbone's tensors (%(default)s)")
    parser.add_argument("--rest", action="store_true", help="all but the backbone: neck and head")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    arguments = parser.parse_args()

    import torch

    try:
        import loradet  # noqa: F401
        from loradet.backbones.export import export_weights
        from loradet.errors import errors_in_one_line
        from loradet.weight_classes import header_of
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        sys.exit(f"error: {error}")

    with errors_in_one_line():
        digest = export_weights(
            arguments.checkpoint,
            arguments.output,
            prefix=arguments.prefix,
            rest=arguments.rest,
            dtype=getattr(torch, arguments.dtype),
            metadata=header_of(arguments.checkpoint) if arguments.rest else None,
        )
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
