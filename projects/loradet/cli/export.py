"""Write a trained detector, LoRA merged, as one file that needs no config: images in, boxes and scores out.

    loradet export --config-file work_dirs/quickstart/config.yaml \\
        --checkpoint work_dirs/quickstart/model_best.pth --output work_dirs/quickstart/model.pt2
    loradet export --config-file work_dirs/quickstart/config.yaml \\
        --checkpoint work_dirs/quickstart/model_best.pth --output work_dirs/quickstart/model.onnx

`.pt2` is a torch.export program; `.onnx` is for onnxruntime and others, and needs pip install 'loradet[onnx]'.
"""

import argparse

from loradet.cli.overrides import CONFIG_HELP, add_overrides
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet export`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help=".pth, or an adapter's .safetensors")
    parser.add_argument("--output", required=True, metavar="FILE", help="file to write (.pt2, .onnx)")
    parser.add_argument("--format", choices=SUFFIXES, help="default: by the ending of --output")
    parser.add_argument(
        "--input-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="of a program of fixed size, in pixels; default: the largest test image of the config",
    )
    parser.add_argument(
        "--dynamic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave batch, height and width open where the exporter can (default)",
    )
    parser.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (18)")
    parser.add_argument(
        "--half-weights", action="store_true", help="ONNX: store weights as float16; they are computed with as float32"
    )
    parser.add_argument(
        "--int8",
        action="append",
        default=[],
        metavar="IMAGES",
        help="ONNX: compute in 8 bits, with ranges seen on training images: file, folder or pattern; may be repeated",
    )
    add_trust(parser)
    add_overrides(parser)
    arguments = parser.parse_intermixed_args(argv)
    format = arguments.format or next((k for k, end in SUFFIXES.items() if arguments.output.endswith(end)), "torch")
    if not arguments.output.endswith(SUFFIXES[format]):
        expected = SUFFIXES[format] if arguments.format else " or ".join(SUFFIXES.values())
        parser.error(f"--output {arguments.output}: expected a file name that ends in {expected}")
    if format != "onnx" and (arguments.opset or arguments.half_weights or arguments.int8):
        parser.error("--opset, --half-weights and --int8 are of ONNX files: --output NAME.onnx")
    if arguments.half_weights and arguments.int8:
        parser.error("give one of --half-weights and --int8")
    if arguments.input_size and min(arguments.input_size) < 1:
        parser.error("--input-size: expected a height and a width in pixels")

    with errors_in_one_line():
        from loradet.config import load_config
        from loradet.inference.export import export_checkpoint
        from loradet.inference.metadata import describe

        metadata = export_checkpoint(
            load_config(arguments.config_file, arguments.overrides, trusted=arguments.trust, needs_data=False),
            arguments.checkpoint,
            arguments.output,
            input_size=arguments.input_size and tuple(arguments.input_size),
            dynamic=arguments.dynamic,
            format=format,
            half_weights=arguments.half_weights,
            calibration=arguments.int8,
            **({"opset": arguments.opset} if arguments.opset else {}),
        )
    print(f"Written: {arguments.output}\n{describe(metadata)}")
