"""Write the backbone of a detector's checkpoint, or all but the backbone, as a small safetensors file."""

import argparse
from pathlib import Path

from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet weights export`."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a detector, as model_best.pth")
    parser.add_argument("output", type=Path, help="safetensors file to write; FILE.sha256 goes beside it")
    parser.add_argument("--prefix", default="backbone.bottom_up.net.", help="of the backbone's tensors (%(default)s)")
    parser.add_argument("--rest", action="store_true", help="all but the backbone: neck and head")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    arguments = parser.parse_args(argv)

    import torch

    with errors_in_one_line():
        from loradet.backbones.export import export_weights
        from loradet.weight_classes import header_of

        digest = export_weights(
            arguments.checkpoint,
            arguments.output,
            prefix=arguments.prefix,
            rest=arguments.rest,
            dtype=getattr(torch, arguments.dtype),
            metadata=header_of(arguments.checkpoint) if arguments.rest else None,
        )
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB, sha256 {digest}")
