"""Pictures of what a detector finds.

Paint detections, and the ground truth beside them, on images of a config's data (no mode option):

    loradet visualize --config-file configs/quickstart.py \\
        --checkpoint work_dirs/quickstart/model_best.pth --contact-sheet --output detections.png

Leave predictions, metrics and pictures of a split in one folder; set several such folders side by side:

    loradet visualize --export --zip --config-file FILE --checkpoint FILE --subset 500 --output exports/lora
    loradet visualize --compare lora=exports/lora probe=exports/probe --contact-sheet --output compared.png

Look at the first training samples as the model sees them, or at presets of augmentation side by side; no weights:

    loradet visualize --augmented --config-file FILE data.augment=lsj --output samples.png
    loradet visualize --augmented basic,lsj,mosaic --config-file FILE --output presets.png

What speaks for each detection; curves, confusion matrix and error breakdown:

    loradet visualize --grad-cam --config-file FILE --checkpoint FILE --subset 500 --output cams
    loradet visualize --analyse --predictions exports/lora --output analysis
"""

import argparse
import logging
from pathlib import Path

from loradet.cli.overrides import CONFIG_HELP, add_overrides
from loradet.cli.share import fraction
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line

PAINT, EXPORT, COMPARE, GRAD_CAM, ANALYSE = "painting", "--export", "--compare", "--grad-cam", "--analyse"
AUGMENTED = "--augmented"
OTHER_PICTURES = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf", ".svg")
WITH_MODEL = (PAINT, EXPORT, GRAD_CAM)
WITH_CONFIG = (*WITH_MODEL, AUGMENTED)
# Which modes take an option; those not listed are taken by all.
MODES = {
    "config_file": WITH_CONFIG,
    "checkpoint": WITH_MODEL,
    "overrides": WITH_CONFIG,
    "trust": WITH_CONFIG,
    "score_threshold": (*WITH_MODEL, COMPARE, ANALYSE),
    "split": WITH_MODEL,
    "subset": (*WITH_MODEL, ANALYSE),
    "subset_seed": (*WITH_MODEL, ANALYSE),
    "num_images": (PAINT, COMPARE, GRAD_CAM, AUGMENTED),
    "ground_truth": (PAINT, EXPORT),
    "contact_sheet": (PAINT, COMPARE),
    "zip": (EXPORT,),
    "image_root": (COMPARE,),
    "class_name": (GRAD_CAM,),
    "top": (GRAD_CAM,),
    "predictions": (ANALYSE,),
    "annotations": (ANALYSE,),
    "iou_threshold": (ANALYSE, EXPORT),
}


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The mode, and the options that were given; an option that the mode does not take is refused."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    modes = parser.add_argument_group("what to make (default: painted detections)")
    modes.add_argument("--export", action="store_true", help="predictions, metrics, painted images in one folder")
    modes.add_argument("--compare", nargs="+", metavar="NAME=EXPORT_DIR", help="several exports side by side")
    modes.add_argument(
        "--grad-cam",
        nargs="?",
        metavar="LEVEL[,LEVEL]",
        help="heat of each detection, on the map that made it; with p3,p5 only of detections from these maps",
    )
    modes.add_argument(
        AUGMENTED,
        nargs="?",
        metavar="PRESET[,PRESET]",
        help="the run's first training samples as the model sees them; with names, draws of its first image by each "
        "preset of data.augment",
    )
    modes.add_argument("--analyse", "--analysis", action="store_true", help="curves, confusion matrix, errors")

    parser.add_argument("--output", required=True, metavar="DIR_or_PNG", help="folder, or a PNG file for a sheet")
    parser.add_argument(
        "--score-threshold",
        "--threshold",
        type=fraction,
        metavar="S",
        help="painting and --export: the operating point of the weights, by class, or 0.3 without one; else 0.3 "
        "(--grad-cam --class: 0)",
    )
    model = parser.add_argument_group("the model and its data (painting, --export, --grad-cam, --augmented)")
    model.add_argument("--config-file", metavar="FILE", help=CONFIG_HELP)
    model.add_argument("--checkpoint", metavar="FILE", help=".pth, or an adapter's .safetensors")
    model.add_argument("--split", metavar="NAME", help="dataloader.<split> (val)")
    model.add_argument("--subset", type=int, metavar="N", help="N images of the split, the same for every model")
    model.add_argument("--subset-seed", type=int, metavar="SEED", help="another choice (0)")
    add_trust(model)
    add_overrides(model)
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument(
        "--num-images",
        type=int,
        metavar="N",
        help="how many (painting, --grad-cam: 8, or the whole --subset; --compare: all; --augmented: 12 samples, or 4 "
        "draws of each preset)",
    )
    pictures.add_argument("--ground-truth", action=argparse.BooleanOptionalAction, help="paint it besides (yes)")
    pictures.add_argument("--contact-sheet", action="store_true", help="one picture of all images")
    more = parser.add_argument_group("options of one mode")
    more.add_argument("--zip", action="store_true", help="--export: OUTPUT.zip too, with its sha256 beside it")
    more.add_argument("--image-root", metavar="DIR", help="--compare: where the images lie now")
    more.add_argument("--class", dest="class_name", metavar="NAME", help="--grad-cam: detections of this class alone")
    more.add_argument("--top", type=int, metavar="K", help="--grad-cam: detections of an image (5)")
    more.add_argument("--predictions", metavar="PATH", help="--analyse: export folder or detections file")
    more.add_argument("--annotations", metavar="FILE", help="--analyse: truth of a detections file (its run's)")
    more.add_argument("--iou-threshold", type=float, metavar="T", help="confusion matrix (0.5)")
    arguments = parser.parse_intermixed_args(argv)
    for name in ("grad_cam", "augmented"):
        if "=" in (getattr(arguments, name, None) or ""):  # a KEY=VALUE that came right behind it
            arguments.overrides = [getattr(arguments, name), *getattr(arguments, "overrides", [])]
            setattr(arguments, name, None)
    if not getattr(arguments, "overrides", None):
        vars(arguments).pop("overrides", None)
    arguments.mode = _mode(parser, arguments)
    _check_options(parser, arguments)
    return arguments


def _mode(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> str:
    given = [
        mode
        for mode in (EXPORT, COMPARE, GRAD_CAM, AUGMENTED, ANALYSE)
        if hasattr(arguments, mode[2:].replace("-", "_"))
    ]
    if given == [EXPORT, ANALYSE]:
        return EXPORT
    if len(given) > 1:
        parser.error(f"{' and '.join(given)} cannot go together")
    return given[0] if given else PAINT


def _check_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    mode, given = arguments.mode, vars(arguments)
    for name, modes in MODES.items():
        if name in given and mode not in modes:
            option = {"class_name": "--class", "overrides": "KEY=VALUE"}.get(name, f"--{name.replace('_', '-')}")
            parser.error(f"{option} does not go with {mode}; it is for {', '.join(modes)}")
    needed = {"config_file": WITH_CONFIG, "checkpoint": WITH_MODEL, "predictions": (ANALYSE,)}
    absent = [f"--{name.replace('_', '-')}" for name, modes in needed.items() if mode in modes and name not in given]
    if absent:
        parser.error(f"the following arguments are required for {mode}: {', '.join(absent)}")
    if "iou_threshold" in given and mode == EXPORT and "analyse" not in given:
        parser.error("--iou-threshold is for --analyse")
    if "subset_seed" in given and "subset" not in given:
        parser.error("--subset-seed needs --subset N")
    # It would become the name of a folder.
    if Path(arguments.output).suffix.lower() in OTHER_PICTURES:
        parser.error(f"--output {arguments.output}: pictures are written as PNG; give a name with .png, or a folder")


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet visualize`."""
    arguments = parse_arguments(argv, prog)

    logging.basicConfig(format="%(message)s")
    logging.getLogger("loradet.visualization").setLevel(logging.INFO)
    with errors_in_one_line():
        from loradet.visualization.command import run_command

        written = run_command(arguments)
    for path in written:
        print(path)
