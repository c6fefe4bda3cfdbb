"""Calibration of detections as one more evaluator of Detectron2's evaluation loop."""

import logging

from loradet.evaluation.calibration.measures import BINS
from loradet.evaluation.calibration.report import CalibrationSettings, calibration_report, summary_metrics
from loradet.evaluation.calibration.temperature import Temperature
from loradet.evaluation.detections.collector import DetectionCollector
from loradet.evaluation.detections.records import join_records

logger = logging.getLogger(__name__)


class CalibrationEvaluator(DetectionCollector):
    """Asks whether scores say how often detections are correct.

    In each image and class, by falling score, a detection is correct if it takes a free annotated box with an IoU of
    `match_iou` at least; one that takes none and lies in a crowd of its class does not count.

    Args:
        dataset_name: registered name. Its metadata has `json_file`, the ground truth in COCO's format, or the records
            are converted to such a file in `output_dir`.
        output_dir: folder for `calibration.json` and `reliability_diagram.png`; None writes nothing.
        match_iou: in (0, 1].
        bins: of equal width, of the ECE and the diagram.
        score_threshold: detections under it are left out.
        temperature: fitted on another split; scores scaled by it are measured too, as `<name>_after`.
        distributed: gather the detections of all processes on the main one; else each measures its own.

    Raises:
        ValueError: a value out of its range, or records must be converted and there is no `output_dir`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        match_iou: float = 0.5,
        bins: int = BINS,
        score_threshold: float = 0.0,
        temperature: float | None = None,
        distributed: bool = True,
    ):
        super().__init__(dataset_name, output_dir, distributed=distributed)
        self._settings = CalibrationSettings(match_iou=match_iou, bins=bins, score_threshold=score_threshold)
        self._temperature = None if temperature is None else Temperature(float(temperature))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Measure, and write the files.

        Returns:
            {"calibration": {"ECE", "NLL", "Brier", "D_ECE", "classwise_ECE" …, "ECE-<class>" …}}, fractions and nats,
            NaN where there are no detections; {} on processes other than the main one, and where nothing was processed.

        Raises:
            ValueError: detections are of images or classes that the ground truth does not have, or scores not in 0..1.
        """
        if (found := self.gather()) is None:
            return {}
        if not found:
            logger.warning("CalibrationEvaluator got no predictions: nothing was processed. No metrics.")
            return {}
        report = calibration_report(
            join_records(self._ground_truth, {i: (d.xywh, d.category_ids, d.scores) for i, d in found.items()}),
            self._settings,
            temperature=self._temperature,
            title=self._dataset_name,
        )
        if self._output_dir is not None:
            report.write(self._output_dir)
        return {"calibration": summary_metrics(report)}
