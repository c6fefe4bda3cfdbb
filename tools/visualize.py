#!/usr/bin/env python
"""Paint a trained model's detections, and the ground truth beside them, on images of a config's data.

    python tools/visualize.py --config-file configs/quickstart.py \\
        --checkpoint work_dirs/quickstart/model_best.pth --contact-sheet --output detections.png
"""

import argparse
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help=".pth, or an adapter's .safetensors")
    parser.add_argument("--split", default="val", help="dataloader.<split> (%(default)s)")
    parser.add_argument("--num-images", type=int, default=8, metavar="N", help="(%(default)s)")
    parser.add_argument("--output", required=True, metavar="DIR_or_PNG", help="folder, or a PNG file for a sheet")
    parser.add_argument("--score-threshold", type=float, default=0.3, metavar="S", help="(%(default)s)")
    parser.add_argument("--ground-truth", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--contact-sheet", action="store_true", help="one picture of all images")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="config keys to change")
    arguments = parser.parse_intermixed_args()

    import loradet  # noqa: F401
    from loradet.training.command import USER_ERRORS, load_config
    from loradet.visualization.detections import paint_split

    try:
        written = paint_split(
            load_config(arguments.config_file, arguments.overrides),
            arguments.checkpoint,
            arguments.output,
            split=arguments.split,
            num_images=arguments.num_images,
            score_threshold=arguments.score_threshold,
            ground_truth=arguments.ground_truth,
            sheet=arguments.contact_sheet,
        )
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    main()
