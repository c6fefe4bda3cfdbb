"""Ask whether a detector's scores say how often it is right, and how sure its AP is, from detections files alone.

    loradet calibrate --predictions work_dirs/mine/predictions/test/coco_instances_results.json \\
        --fit-predictions work_dirs/mine/predictions/val/coco_instances_results.json \\
        --bootstrap 1000 --output work_dirs/mine/calibration
"""

import argparse

from loradet.cli.share import fraction
from loradet.errors import errors_in_one_line


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """`loradet calibrate`."""
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", required=True, metavar="FILE", help="coco_instances_results.json")
    parser.add_argument("--annotations", metavar="FILE", help="COCO instances of the same images (those of the run)")
    parser.add_argument("--output", required=True, metavar="DIR", help="for calibration.json and the PNG")
    parser.add_argument("--fit-predictions", metavar="FILE", help="of another split: fit a temperature there")
    parser.add_argument("--fit-annotations", metavar="FILE", help="of that split (those of its run)")
    parser.add_argument("--match-iou", type=float, default=0.5, metavar="T", help="IoU of a correct detection (0.5)")
    parser.add_argument("--bins", type=int, default=15, metavar="N", help="score bins of the ECE (15)")
    parser.add_argument("--score-threshold", type=fraction, default=0.0, metavar="S", help="leave lower ones out (0)")
    parser.add_argument("--bootstrap", type=int, metavar="N", help="intervals of AP by N resamples of the images")
    parser.add_argument("--seed", type=int, metavar="SEED", help="of the bootstrap (0)")
    parser.add_argument("--against", metavar="FILE", help="--bootstrap: the difference from these detections too")
    arguments = parser.parse_args(argv)
    if arguments.bootstrap is None and (arguments.against or arguments.seed is not None):
        parser.error("--against and --seed go with --bootstrap N")

    from tqdm import tqdm

    with errors_in_one_line():
        from loradet.evaluation.calibration.detections_files import bootstrap_files, calibrate_files
        from loradet.evaluation.calibration.report import CalibrationSettings
        from loradet.evaluation.calibration.tables import calibration_tables, interval_table
        from loradet.evaluation.detections.numbering import recorded_annotations

        annotations = arguments.annotations or recorded_annotations(arguments.predictions)
        fit_annotations = arguments.fit_annotations
        if arguments.fit_predictions and not fit_annotations:
            fit_annotations = recorded_annotations(arguments.fit_predictions)
        files = (arguments.predictions, annotations, arguments.output)
        report = calibrate_files(
            *files,
            fit_predictions=arguments.fit_predictions,
            fit_annotations=fit_annotations,
            settings=CalibrationSettings(
                match_iou=arguments.match_iou, bins=arguments.bins, score_threshold=arguments.score_threshold
            ),
        )
        print(calibration_tables(report))
        if arguments.bootstrap is not None:
            with tqdm(desc="resamples", disable=None) as bar:
                found = bootstrap_files(
                    *files,
                    resamples=arguments.bootstrap,
                    seed=arguments.seed or 0,
                    against=arguments.against,
                    progress=lambda _: bar.update(),
                )
            for kind, intervals in found.items():
                print("\n" + interval_table({name: one for name, one in intervals.items() if "/" not in name}, kind))
    print(f"\nWritten to {arguments.output}")
