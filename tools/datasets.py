#!/usr/bin/env python3
"""Makes, checks, cuts and describes detection data sets. `tools/datasets.py COMMAND --help` says more."""

import argparse
import shlex
import sys
from pathlib import Path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    synthetic = commands.add_parser("synthetic", help="write a synthetic set")
    synthetic.add_argument("root", help="folder to fill")
    synthetic.add_argument("--style", choices=["sar", "optical", "shapes"], default="sar")
    synthetic.add_argument(
        "--layout",
        choices=["sardet", "coco2017", "roboflow", "yolo"],
        help="of the folder (default coco2017 for shapes, else sardet)",
    )
    synthetic.add_argument("--max-objects", type=int, default=8, metavar="N", help="in an image (default 8)")
    synthetic.add_argument("--size", type=int, nargs="+", default=[256], metavar="N", help="side, or H W (default 256)")
    for split, count in (("train", "600"), ("val", "100"), ("test", "100, none in coco2017")):
        synthetic.add_argument(f"--{split}", type=int, metavar="N", help=f"images (default {count})")
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    synthetic.set_defaults(run=run_synthetic)

    check = commands.add_parser("check", help="report faults of COCO files; exit code 1 where there are any")
    check.add_argument("json", nargs="+", help="COCO instances files")
    check.add_argument("--images", required=True, nargs="+", help="image folder: one for all files, or one for each")
    check.add_argument("--fix", metavar="OUT.json", help="also write a repaired copy (one input only)")
    check.add_argument("--limit", type=int, default=20, help="lines shown of each kind of fault (default 20)")
    check.set_defaults(run=run_check)

    subset = commands.add_parser("subset", help="write a COCO file of N images")
    subset.add_argument("json")
    subset.add_argument("output")
    subset.add_argument("--count", "-n", type=int, required=True)
    subset.add_argument("--seed", type=int, default=0)
    subset.add_argument("--include-empty", action="store_true", help="draw images without boxes too")
    subset.set_defaults(run=run_subset)

    summary = commands.add_parser("summary", help="print a table of classes and box sizes, draw histograms")
    summary.add_argument("json")
    summary.add_argument("--png", help="picture to write")
    summary.set_defaults(run=run_summary)

    yolo = commands.add_parser("yolo2coco", help="convert a YOLO data set to COCO files")
    yolo.add_argument("data", help="data.yaml or its folder")
    yolo.add_argument("output", help="folder for SPLIT.json")
    yolo.add_argument("--splits", nargs="+", default=["train", "val"], help="default: train val")
    yolo.add_argument("--polygons", action="store_true", help="labels may be polygons, of which the boxes are taken")
    yolo.set_defaults(run=run_yolo2coco)

    coco = commands.add_parser("coco2017", help="download COCO 2017, or go on with an interrupted download")
    coco.add_argument("root", nargs="?", help="folder to fill (default $DETECTRON2_DATASETS/coco, else datasets/coco)")
    coco.add_argument("--splits", nargs="+", choices=["train", "val"], default=["train", "val"], help="default: both")
    coco.add_argument("--url", metavar="BASE", help="mirror that has zips/ and annotations/ (default COCO's own)")
    coco.add_argument(
        "--sha256",
        nargs="+",
        action="extend",
        default=[],
        metavar="ARCHIVE=SUM",
        help="sums to compare with, as val2017.zip=4f79…; all are recorded in checksums.sha256",
    )
    coco.add_argument("--remove-archives", action="store_true", help="delete each archive once it is unpacked")
    coco.add_argument("--retries", type=int, default=5, metavar="N", help="attempts without progress (default 5)")
    coco.set_defaults(run=run_coco2017)

    options = parser.parse_args(arguments)
    if options.command == "synthetic" and len(options.size) > 2:
        parser.error("--size takes one number or two (H W)")
    if options.command == "check":
        if options.fix and len(options.json) > 1:
            parser.error("--fix repairs one file at a time")
        if len(options.images) not in (1, len(options.json)):
            parser.error(f"--images: expected 1 folder or {len(options.json)}, one for each file")
    if options.command == "coco2017" and options.retries < 0:
        parser.error("--retries takes 0 or more")
    if options.command == "coco2017" and (wrong := [word for word in options.sha256 if "=" not in word]):
        parser.error(f"--sha256 {wrong[0]}: expected ARCHIVE=SUM, as val2017.zip=4f79…")
    return options


def run_synthetic(options: argparse.Namespace) -> int:
    from loradet.datasets import synthetic

    layout = options.layout or synthetic.default_layout(options.style)
    given = {split: getattr(options, split) for split in ("train", "val", "test")}
    counts = synthetic.default_counts(layout) | {split: n for split, n in given.items() if n is not None}
    root = synthetic.generate(
        options.root,
        style=options.style,
        size=options.size[0] if len(options.size) == 1 else tuple(options.size),
        counts=counts,
        seed=options.seed,
        layout=layout,
        max_objects=options.max_objects,
        workers=options.workers,
        progress=True,
    )
    print(f"{root}: {synthetic.LAYOUTS[layout].describe(list(counts))}")
    return 0


def run_check(options: argparse.Namespace) -> int:
    from loradet.datasets import check, fix

    roots = options.images * len(options.json) if len(options.images) == 1 else options.images
    found = False
    for json_file, image_root in zip(options.json, roots):
        if options.fix:
            report = fix(json_file, image_root, options.fix, progress=True)
        else:
            report = check(json_file, image_root, progress=True)
        print(report.text(options.limit))
        found = found or not report.ok
    if options.fix:
        print(f"Repaired copy: {options.fix}")
    return int(found)


def run_subset(options: argparse.Namespace) -> int:
    from loradet.datasets import make_subset

    content = make_subset(options.json, options.output, options.count, options.seed, options.include_empty)
    print(f"{options.output}: {len(content['images'])} images, {len(content['annotations'])} annotations")
    return 0


def run_summary(options: argparse.Namespace) -> int:
    from loradet.datasets import summarize

    print(summarize(options.json, options.png))
    if options.png:
        print(f"Picture: {options.png}")
    return 0


def run_yolo2coco(options: argparse.Namespace) -> int:
    from loradet.datasets import yolo_to_coco

    for split in options.splits:
        output = Path(options.output) / f"{split}.json"
        target, image_root = yolo_to_coco(options.data, split, output, polygons=options.polygons, progress=True)
        print(f"{target}: image_root is {image_root}")
    return 0


def run_coco2017(options: argparse.Namespace) -> int:
    from loradet.datasets.coco2017 import BASE_URL, coco2017, default_root

    try:
        keys = coco2017(
            options.root or default_root(),
            splits=options.splits,
            url=options.url or BASE_URL,
            sums=dict(word.split("=", 1) for word in options.sha256),
            remove_archives=options.remove_archives,
            retries=options.retries,
            progress=True,
        )
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    print("COCO 2017 is complete. For a config, or behind the command line of tools/lazyconfig_train_net.py:")
    for key, value in keys.items():
        print(f"    {shlex.quote(f'{key}={value}')}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)

    try:
        from loradet.errors import errors_in_one_line
    except (ImportError, ValueError) as error:  # no Detectron2 that can be used
        print(f"error: {error}", file=sys.stderr)
        return 2

    with errors_in_one_line(status=2):  # 1 says that faults were found
        return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
