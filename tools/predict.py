#!/usr/bin/env python
"""Detect on images, folders or patterns: COCO JSON and painted pictures.

    python tools/predict.py --config-file work_dirs/quickstart/config.yaml \\
        --checkpoint work_dirs/quickstart/model_best.pth --output found images/ 'more/**/*.jpg'
    python tools/predict.py --exported model.pt2 --trust --output found images/

The exit status is 1 where an image could not be read; all others are done.
"""

import argparse
import sys


def share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders (with those below), or patterns")
    parser.add_argument("--config-file", metavar="FILE", help="of the checkpoint")
    parser.add_argument("--checkpoint", metavar="FILE", help=".pth, merged .pth, or an adapter's .safetensors")
    parser.add_argument("--exported", metavar="FILE", help="a .pt2 of tools/export.py instead")
    parser.add_argument("--trust", action="store_true", help="run --exported, which can hold any code")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets predictions.json and pictures/")
    parser.add_argument(
        "--score-threshold",
        "--threshold",
        type=share,
        metavar="S",
        help="leave lower scores out; default: the operating point of the weights, by class, or 0.3 without one",
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="(%(default)s)")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1; default: the config's, or auto")
    parser.add_argument("--pictures", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="config keys to change")
    arguments = parser.parse_args()
    if bool(arguments.exported) == bool(arguments.checkpoint):
        parser.error("give one of --checkpoint (with --config-file) and --exported")
    if arguments.checkpoint and not arguments.config_file:
        parser.error("--checkpoint needs the --config-file that it was trained with")
    if arguments.exported and (arguments.config_file or arguments.set):
        parser.error("--exported needs neither --config-file nor --set: the file says everything")
    if arguments.trust and not arguments.exported:
        parser.error("--trust is for --exported alone")
    if arguments.batch_size < 1:
        parser.error("--batch-size: expected 1 or more")

    try:
        import loradet  # noqa: F401
        from loradet.config import load_config
        from loradet.errors import errors_in_one_line
        from loradet.inference.command import predict_checkpoint, predict_exported
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        sys.exit(f"error: {error}")

    options = {
        "score_threshold": arguments.score_threshold,
        "batch_size": arguments.batch_size,
        "pictures": arguments.pictures,
    }
    with errors_in_one_line():
        if arguments.exported:
            outcome = predict_exported(
                arguments.exported,
                arguments.images,
                arguments.output,
                trusted=arguments.trust,
                device=arguments.device or "auto",
                **options,
            )
        else:
            device = [f"train.device={arguments.device}"] if arguments.device else []
            cfg = load_config(arguments.config_file, [*arguments.set, *device], needs_data=False)
            outcome = predict_checkpoint(cfg, arguments.checkpoint, arguments.images, arguments.output, **options)
    print(f"{outcome.output}: {outcome.boxes} detections on {outcome.images} images")
    print(f"score threshold: {outcome.thresholds}")
    if outcome.failures:
        count = len(outcome.failures)
        sys.exit(f"error: {count} image{'s' * (count > 1)} could not be used; the warnings above say why")


if __name__ == "__main__":
    main()
