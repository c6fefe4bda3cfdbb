"""Makes, checks, cuts and describes detection data sets. `loradet data COMMAND --help` says more."""

import argparse
import shlex
import sys
from pathlib import Path

from loradet.cli.overrides import add_output, output_of, parse_mixed, split_overrides
from loradet.cli.trust import add_trust
from loradet.errors import errors_in_one_line


def parse_arguments(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """The subcommand and its options; what does not go together is refused with exit status 2."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    synthetic = commands.add_parser("synthetic", help="write a synthetic set")
    synthetic.add_argument("root", metavar="DIR", help="folder to fill")
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
    synthetic.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    synthetic.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    synthetic.set_defaults(run=run_synthetic)

    check = commands.add_parser(
        "check", help="report faults of a data set; exit code 1 where there are any, or no box to train on"
    )
    check.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a folder laid out as COCO, Roboflow, YOLO, Pascal VOC or SARDet-100K, of which every split is checked; "
        "the data.yaml of a YOLO set; or COCO instances files, that of the training split first",
    )
    check.add_argument(
        "--images",
        nargs="+",
        metavar="DIR",
        help="image folder of the files: one for all, or one for each (default: pictures are not opened)",
    )
    check.add_argument(
        "--fix", metavar="OUT.json", help="also write a repaired copy, in which nothing is found (one file at a time)"
    )
    check.add_argument("--polygons", action="store_true", help="of a YOLO folder: labels may be polygons")
    check.add_argument(
        "--clip", action="store_true", help="of a YOLO folder: clip boxes that leave the image by over 1 %%"
    )
    check.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="lines shown of each kind (default 20; 3 where all of a kind say the same)",
    )
    check.add_argument(
        "--config-file",
        nargs="+",
        metavar=("FILE", "KEY=VALUE"),
        help="also say which boxes no anchor of this config reaches; KEY=VALUE words change it",
    )
    add_trust(check)
    check.add_argument("--report", metavar="OUT.html", help="also write a page with histograms and the worst pictures")
    check.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of that config to change")
    check.set_defaults(run=run_check)

    split = commands.add_parser("split", help="split a COCO file into train, val and test")
    split.add_argument("json", metavar="FILE", help="COCO instances")
    split.add_argument("--val", type=float, default=0.2, metavar="SHARE", help="of the images (default 0.2)")
    split.add_argument(
        "--test", type=float, default=0.0, metavar="SHARE", help="of the images (default 0: no such file)"
    )
    split.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    split.add_argument(
        "--group-by",
        metavar="KEY",
        help="keep images together that have one value of this key of their entries; re:PATTERN is looked for in their "
        "file names instead (its first group, else the match)",
    )
    split.add_argument("--output", metavar="DIR", help="for train.json … (default: NAME_split beside NAME.json)")
    split.set_defaults(run=run_split)

    subset = commands.add_parser("subset", help="write a COCO file of N images")
    subset.add_argument("json", metavar="FILE", help="COCO instances")
    add_output(subset, "COCO file to write")
    subset.add_argument("--count", "-n", type=int, required=True, metavar="N", help="images")
    subset.add_argument("--seed", type=int, default=0, metavar="N", help="(default 0)")
    subset.add_argument("--include-empty", action="store_true", help="draw images without boxes too")
    subset.set_defaults(run=run_subset)

    summary = commands.add_parser("summary", help="print a table of classes and box sizes, draw histograms")
    summary.add_argument("json", metavar="FILE", help="COCO instances")
    summary.add_argument("--png", metavar="FILE", help="picture to write")
    summary.set_defaults(run=run_summary)

    yolo = commands.add_parser("yolo2coco", help="convert a YOLO data set to COCO files")
    yolo.add_argument("data", metavar="DATA", help="data.yaml or its folder")
    add_output(yolo, "folder for SPLIT.json", metavar="DIR")
    yolo.add_argument("--splits", nargs="+", default=["train", "val"], help="default: train val")
    yolo.add_argument("--polygons", action="store_true", help="labels may be polygons, of which the boxes are taken")
    yolo.add_argument("--clip", action="store_true", help="clip boxes that leave the image by over 1 %% of its side")
    yolo.set_defaults(run=run_yolo2coco)

    voc = commands.add_parser("voc2coco", help="convert a Pascal VOC data set to a COCO file")
    voc.add_argument(
        "root", metavar="DIR", help="folder with Annotations and JPEGImages, or with train, valid and test"
    )
    add_output(voc, "COCO file to write")
    voc.add_argument("--split", default="all", help="train, val or test (default all: every file of Annotations)")
    voc.set_defaults(run=run_voc2coco)

    coco = commands.add_parser("coco2017", help="download COCO 2017, or go on with an interrupted download")
    coco.add_argument(
        "root", nargs="?", metavar="DIR", help="folder to fill (default $DETECTRON2_DATASETS/coco, else datasets/coco)"
    )
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
    coco.add_argument(
        "--remove-archives",
        action="store_true",
        help="delete each archive once it is unpacked, else twice the room is needed",
    )
    coco.add_argument(
        "--retries", type=int, default=5, metavar="N", help="attempts in a row that bring nothing new (default 5)"
    )
    coco.set_defaults(run=run_coco2017)

    options = parse_mixed(parser, argv)
    if hasattr(options, "output_word"):
        options.output = output_of(commands.choices[options.command], options)
    if options.command == "synthetic" and len(options.size) > 2:
        parser.error("--size takes one number or two (H W)")
    if options.command == "check":
        options.source, words = split_overrides(options.source)
        options.overrides = [*(options.config_file or ())[1:], *words, *options.overrides]
        if not options.source:
            parser.error("check: name a folder or COCO files")
        if options.overrides and not options.config_file:
            parser.error(f"check: {options.overrides[0]}: KEY=VALUE goes with --config-file")
        paths = [Path(source).expanduser() for source in options.source]
        folders = [path for path in paths if path.is_dir() or path.suffix in (".yaml", ".yml")]
        if options.fix and (len(options.source) > 1 or folders):
            parser.error("--fix repairs one file at a time")
        if folders and (options.images or len(options.source) > 1):
            parser.error("a folder or data.yaml is checked by itself: no --images, and nothing beside it")
        if options.fix and not options.images:
            parser.error("--fix needs --images: it writes the sizes that the pictures have")
        if options.images and len(options.images) not in (1, len(options.source)):
            parser.error(f"--images: expected 1 folder or {len(options.source)}, one for each file")
    if options.command == "coco2017" and (wrong := [word for word in options.sha256 if "=" not in word]):
        parser.error(f"--sha256 {wrong[0]}: expected ARCHIVE=SUM, as val2017.zip=4f79…")
    if options.command == "coco2017" and options.retries < 0:
        parser.error("--retries takes 0 or more")
    return options


def run_synthetic(options: argparse.Namespace) -> int:
    """Write a synthetic set; returns the exit status."""
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
    """Print what is wrong with a data set; returns 1 where there is anything, else 0."""
    from loradet.datasets.checks import check_splits, splits_of
    from loradet.datasets.layouts import is_description
    from loradet.datasets.readers.any_layout import layout_of
    from loradet.errors import MissingFileError, UserError

    rule = _anchor_rule(options.config_file[0], options) if options.config_file else None
    layout, broken = None, False
    source = Path(options.source[0]).expanduser()
    if not source.exists() and not source.suffix:
        raise MissingFileError(f"{source}: there is no such file or folder.")
    if source.is_dir() or is_description(source):
        layout = layout_of(options.source[0])
        print(f"{layout.root}: {layout.name}; splits: {', '.join(layout.splits) or 'none'}")
        splits = list(_readable_splits(layout, options))
        broken = len(splits) < max(1, len(layout.splits))
    else:
        roots = options.images or [None]
        splits = splits_of(options.source, roots * len(options.source) if len(roots) == 1 else roots)
    if (options.polygons or options.clip) and (layout is None or layout.kind != "yolo"):
        raise UserError(f"{options.source[0]} is no YOLO folder: --polygons and --clip are for the labels of one.")
    report = check_splits(splits, repaired=options.fix, progress=True)
    print(report.text(options.limit))
    anchors = {}
    if rule is not None:
        from loradet.datasets.checks.anchors import check_anchors

        for name, content in report.contents.items():
            anchors[name] = check_anchors(content, rule)
            print(f"{name}, {options.config_file[0]}:\n{anchors[name].text(options.limit)}")
    if options.fix:
        print(f"Repaired copy: {options.fix}")
    if options.report:
        from loradet.visualization.checks.page import write_check_page

        print(f"Page: {write_check_page(report, options.report, anchors)}")
    if broken or not report.ok or report.useless:
        return 1
    if layout is not None and "train" in layout.splits:
        from loradet.datasets.images.intensity_check import suggest_range

        train = report.contents["train"]
        files = [train.image_root / one["file_name"] for one in train.images.kept]
        # Else the training would look for it.
        more = [] if "val" in layout.splits else ["train.eval_splits=[]"]
        more += [] if (intensity := suggest_range(files)) is None else [intensity]
        words = "".join(f" {shlex.quote(word)}" for word in more)
        print(f"Train on it: loradet train --config-file {layout.config}{words}")
    return 0


def _readable_splits(layout, options: argparse.Namespace):
    """The splits of a folder as COCO; what is wrong with the labels of the others is printed."""
    from loradet.datasets.checks import Split
    from loradet.datasets.readers.any_layout import split_as_coco
    from loradet.errors import UserError

    for split in layout.splits:
        try:
            files = split_as_coco(layout, split, polygons=options.polygons, clip=options.clip, progress=True)
            yield Split(split, *files)
        except UserError as error:
            print(error)


def _anchor_rule(config: str, options: argparse.Namespace):
    """The anchors of a config; None, and a line that says so, where its detector has none."""
    import loradet  # noqa: F401
    from loradet.config import load_config
    from loradet.config.anchors import anchor_rule

    rule = anchor_rule(load_config(config, options.overrides, trusted=options.trust))
    if rule is None:
        print(f"{config}: its detector has no anchors, so that there is nothing to check about them.")
    return rule


def run_split(options: argparse.Namespace) -> int:
    """Split a COCO file; returns the exit status."""
    from loradet.datasets import split_coco
    from loradet.datasets.splitting import describe_split

    source = Path(options.json)
    files = split_coco(
        source,
        options.output or source.with_name(f"{source.stem}_split"),
        val=options.val,
        test=options.test,
        seed=options.seed,
        group_by=options.group_by,
    )
    print(describe_split(files))
    print("For a config, with the folder of the images for IMAGES:")
    print(f"    {shlex.quote(f'data.root={source.parent}')}")
    for split, file in files.items():
        print(f"    {shlex.quote(f'data.{split}_json={file}')} data.{split}_images=IMAGES")
    return 0


def run_subset(options: argparse.Namespace) -> int:
    """Write a COCO file of some images; returns the exit status."""
    from loradet.datasets import make_subset

    content = make_subset(options.json, options.output, options.count, options.seed, options.include_empty)
    print(f"{options.output}: {len(content['images'])} images, {len(content['annotations'])} annotations")
    return 0


def run_summary(options: argparse.Namespace) -> int:
    """Describe a COCO file; returns the exit status."""
    from loradet.datasets import summarize

    print(summarize(options.json, options.png))
    if options.png:
        print(f"Picture: {options.png}")
    return 0


def run_yolo2coco(options: argparse.Namespace) -> int:
    """Convert YOLO labels; returns the exit status."""
    from loradet.datasets import yolo_to_coco

    for split in options.splits:
        output = Path(options.output) / f"{split}.json"
        target, image_root = yolo_to_coco(
            options.data, split, output, polygons=options.polygons, clip=options.clip, progress=True
        )
        print(f"{target}: image_root is {image_root}")
    return 0


def run_voc2coco(options: argparse.Namespace) -> int:
    """Convert Pascal VOC's XML files; returns the exit status."""
    from loradet.datasets import voc_to_coco

    target, image_root = voc_to_coco(options.root, options.split, options.output, progress=True)
    print(f"{target}: image_root is {image_root}")
    return 0


def run_coco2017(options: argparse.Namespace) -> int:
    """Download COCO 2017; returns the exit status, 130 where it was interrupted."""
    from loradet.datasets.download.coco2017 import BASE_URL, coco2017, default_root

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
    print("COCO 2017 is complete. For a config, or behind the command line of loradet train:")
    for key, value in keys.items():
        print(f"    {shlex.quote(f'{key}={value}')}")
    return 0


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """`loradet data`; returns the exit status: 0, 1 where `check` found faults, 130 where it was interrupted."""
    options = parse_arguments(argv, prog)

    with errors_in_one_line(status=2):  # 1 says that faults were found
        return options.run(options)
