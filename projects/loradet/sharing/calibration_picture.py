"""The calibration picture of a card, from the detections that a run has left."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from loradet.errors import UserError
from loradet.evaluation.calibration.report import (
    DIAGRAM_FILE,
    CalibrationReport,
    CalibrationSettings,
    calibration_report,
    fit_on_halves,
)
from loradet.evaluation.detections.numbering import recorded_annotations
from loradet.evaluation.detections.records import read_records
from loradet.run_folder import RunFolder


@dataclass(frozen=True)
class CalibrationPicture:
    """A reliability diagram.

    Attributes:
        split: that it is of.
        png: the file's content.
        report: its numbers; None of a picture that an evaluation has left.
    """

    split: str
    png: bytes
    report: CalibrationReport | None = None


def calibration_picture(run: RunFolder, splits: list[str]) -> CalibrationPicture | None:
    """Of the last of these splits, on which weights are not chosen if there are several.

    It is drawn anew where the annotations are at hand, else the one that the evaluation left beside its detections is
    taken; None where there is neither.

    Raises:
        UserError: detections or annotations are broken.
    """
    for split in reversed(splits):
        predictions = run.predictions(split)
        if not predictions.is_file():
            continue
        try:
            annotations = recorded_annotations(predictions)
        except UserError:  # of another machine
            left = predictions.with_name(DIAGRAM_FILE)
            if left.is_file():
                return CalibrationPicture(split, left.read_bytes())
            continue
        settings = CalibrationSettings()
        records = read_records(annotations, predictions)
        temperature = fit_on_halves(records, settings)
        report = calibration_report(records, settings, temperature=temperature, title=split)
        with tempfile.TemporaryDirectory() as folder:
            report.write(folder)
            return CalibrationPicture(split, Path(folder, DIAGRAM_FILE).read_bytes(), report)
    return None
