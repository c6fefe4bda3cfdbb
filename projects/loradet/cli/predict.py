"""Detect on images, folders, patterns or videos: COCO JSON, YOLO or CSV, and painted pictures.

    loradet predict --config-file work_dirs/quickstart/config.yaml \\
        --checkpoint work_dirs/quickstart/model_best.pth --output found images/ 'more/**/*.jpg'
    loradet predict --exported model.pt2 --trust --output found images/ --tiles 640
    loradet predict --exported model.pt2 --trust --output found clip.mp4 --every 5 --save coco,csv
    loradet predict --onnx model.onnx --output found images/

The exit status is 1 where an image or a video could not be read; all others are done.
"""

import argparse
import sys

from loradet.cli.overrides import HELP, split_overrides
from loradet.cli.share import fraction
from loradet.cli.views import add_views, views_of
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet predict`; ends with status 1 where an image could not be used."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="files, also videos; folders of images, with those below; patterns"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"{HELP}; a file of such a name is an image")
    parser.add_argument("--config-file", metavar="FILE", help="of the checkpoint (.py, or a saved .yaml)")
    parser.add_argument("--checkpoint", metavar="FILE", help=".pth, also a merged one, or an adapter's .safetensors")
    parser.add_argument("--exported", metavar="FILE", help="a .pt2 or .onnx of loradet export instead")
    parser.add_argument("--onnx", metavar="FILE", help="an .onnx of loradet export instead; no torch is needed")
    parser.add_argument("--trust", action="store_true", help="run --exported, or a .yaml that calls what it likes")
    parser.add_argument("--output", required=True, metavar="DIR", help="gets predictions.json and pictures/")
    parser.add_argument(
        "--score-threshold",
        "--threshold",
        type=fraction,
        metavar="S",
        help="leave lower scores out; default: the operating point of the weights, by class, or 0.3 without one",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="images, views or frames of one size at a time; no result depends on it (%(default)s)",
    )
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1; default: the config's, or auto")
    parser.add_argument(
        "--pictures", action=argparse.BooleanOptionalAction, default=True, help="paint them (yes), or JSON alone"
    )
    parser.add_argument(
        "--save", type=_formats, default=("coco",), metavar="F,F", help="of coco, yolo and csv: what is written (coco)"
    )
    parser.add_argument("--every", type=int, metavar="N", help="of videos: look at every N-th frame alone (1)")
    add_views(parser)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="config keys to change, as above")
    arguments = parser.parse_intermixed_args(argv)
    images, overrides = split_overrides([*arguments.images, *arguments.overrides])
    overrides = [*arguments.set, *overrides]
    if not images:
        parser.error("name images: files, folders or patterns")
    if sum(map(bool, (arguments.exported, arguments.onnx, arguments.checkpoint))) != 1:
        parser.error("give one of --checkpoint (with --config-file), --exported and --onnx")
    if arguments.checkpoint and not arguments.config_file:
        parser.error("--checkpoint needs the --config-file that it was trained with")
    if (arguments.exported or arguments.onnx) and (arguments.config_file or overrides):
        name = "--exported" if arguments.exported else "--onnx"
        parser.error(f"{name} needs neither --config-file nor KEY=VALUE: the file says everything")
    if arguments.batch_size < 1:
        parser.error("--batch-size: expected 1 or more")
    if arguments.every is not None and arguments.every < 1:
        parser.error("--every: expected 1 or more")
    views = views_of(parser, arguments)
    if arguments.onnx and (views is not None or arguments.every is not None):
        parser.error("--onnx takes whole images: for tiles, other views and videos give the file by --exported")

    options = {
        "score_threshold": arguments.score_threshold,
        "batch_size": arguments.batch_size,
        "pictures": arguments.pictures,
        "save": arguments.save,
    }
    with errors_in_one_line():
        if arguments.onnx:
            from loradet.inference.onnx_predict import predict_onnx

            device = arguments.device or "auto"
            outcome = predict_onnx(arguments.onnx, images, arguments.output, device=device, **options)
        elif arguments.exported:
            from loradet.inference.command import predict_exported

            options |= _of_views(views, arguments.every)
            outcome = predict_exported(
                arguments.exported,
                images,
                arguments.output,
                trusted=arguments.trust,
                device=arguments.device or "auto",
                **options,
            )
        else:
            from loradet.config import load_config
            from loradet.inference.command import predict_checkpoint

            options |= _of_views(views, arguments.every)
            device = [f"train.device={arguments.device}"] if arguments.device else []
            cfg = load_config(arguments.config_file, [*overrides, *device], trusted=arguments.trust, needs_data=False)
            outcome = predict_checkpoint(cfg, arguments.checkpoint, images, arguments.output, **options)
    print(f"{outcome.output}: {outcome.boxes} detections on {outcome.images} {outcome.unit}")
    print(f"score threshold: {outcome.thresholds}")
    if outcome.failures:
        count, what = len(outcome.failures), "image" if outcome.unit == "images" else "video"
        sys.exit(f"error: {count} {what}{'s' * (count > 1)} could not be used; the warnings above say why")


def _of_views(views: dict | None, every: int | None) -> dict:
    from loradet.views import Views

    return {"views": None if views is None else Views(**views), "every": every}


def _formats(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(text.split(",")))
    if not set(words) <= {"coco", "yolo", "csv"}:
        raise argparse.ArgumentTypeError(f"{text}: expected some of coco,yolo,csv")
    return words
