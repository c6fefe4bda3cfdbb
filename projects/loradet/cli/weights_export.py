"""Write the backbone of a detector's checkpoint, or all but the backbone, as a small safetensors file."""

import argparse

from loradet.cli.overrides import add_output, output_of
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet weights export`."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of a detector, as model_best.pth")
    add_output(parser, "safetensors file to write; FILE.sha256 goes beside it")
    parser.add_argument(
        "--prefix", default="backbone.bottom_up.net.", metavar="NAME", help="of the backbone's tensors (%(default)s)"
    )
    parser.add_argument("--rest", action="store_true", help="all but the backbone: neck and head")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    arguments = parser.parse_intermixed_args(argv)
    output = output_of(parser, arguments)

    import torch

    with errors_in_one_line():
        from loradet.backbones.export import export_weights
        from loradet.remote import local_path
        from loradet.weight_classes import header_of

        digest = export_weights(
            local_path(arguments.checkpoint),
            output,
            prefix=arguments.prefix,
            rest=arguments.rest,
            dtype=getattr(torch, arguments.dtype),
            metadata=header_of(arguments.checkpoint) if arguments.rest else None,
        )
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB, sha256 {digest}")
