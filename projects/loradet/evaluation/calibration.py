"""Calibration of detections as one more evaluator of Detectron2's evaluation loop."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from loradet.errors import UserError
from loradet.evaluation.calibration_measures import BINS
from loradet.evaluation.calibration_report import CalibrationSettings, calibration_report, summary_metrics
from loradet.evaluation.detection_records import join_records
from loradet.evaluation.temperature import Temperature

logger = logging.getLogger(__name__)


class CalibrationEvaluator(DatasetEvaluator):
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
        self._settings = CalibrationSettings(match_iou=match_iou, bins=bins, score_threshold=score_threshold)
        self._temperature = None if temperature is None else Temperature(float(temperature))
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._metadata = MetadataCatalog.get(dataset_name)
        self._ground_truth = self._ground_truth_file()
        self._found: dict[Any, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def _ground_truth_file(self) -> str:
        if (file := self._metadata.get("json_file")) is not None:
            return PathManager.get_local_path(file)
        if self._output_dir is None:
            raise UserError(
                f"The metadata of data set {self._dataset_name!r} has no json_file, so its records must be written in "
                "COCO's format first: give CalibrationEvaluator an output_dir, or set json_file."
            )
        Path(self._output_dir).mkdir(parents=True, exist_ok=True)
        file = str(Path(self._output_dir) / f"{self._dataset_name}_coco_format.json")
        convert_to_coco_json(self._dataset_name, file, allow_cached=False)
        return file

    def reset(self) -> None:
        """Forget collected detections."""
        self._found = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take in a batch.

        Args:
            inputs: each with "image_id"; an image that comes again counts once.
            outputs: each with "instances": `pred_boxes`, `scores` in 0..1, `pred_classes` (contiguous ids).
        """
        for record, output in zip(inputs, outputs):
            instances = output["instances"].to(torch.device("cpu"))
            # Converted in the boxes' own precision, as COCOEvaluator writes them.
            boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            self._found[record["image_id"]] = (
                boxes.double().numpy(),
                instances.pred_classes.long().numpy(),
                instances.scores.double().numpy(),
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Measure, and write the files.

        Returns:
            {"calibration": {"ECE", "NLL", "Brier", "D_ECE", "classwise_ECE" …, "ECE-<class>" …}}, fractions and nats,
            NaN where there are no detections; {} on processes other than the main one, and where nothing was processed.

        Raises:
            ValueError: detections are of images or classes that the ground truth does not have, or scores not in 0..1.
        """
        found = self._gather()
        if self._distributed and not comm.is_main_process():
            return {}
        if not found:
            logger.warning("CalibrationEvaluator got no predictions: nothing was processed. No metrics.")
            return {}
        found = {
            number: (xywh, self._category_ids(classes), scores) for number, (xywh, classes, scores) in found.items()
        }
        report = calibration_report(
            join_records(self._ground_truth, found),
            self._settings,
            temperature=self._temperature,
            title=self._dataset_name,
        )
        if self._output_dir is not None:
            report.write(self._output_dir)
        return {"calibration": summary_metrics(report)}

    def _gather(self) -> dict[Any, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        if not self._distributed:
            return self._found
        comm.synchronize()
        return dict(itertools.chain.from_iterable(part.items() for part in comm.gather(self._found, dst=0)))

    def _category_ids(self, classes: np.ndarray) -> np.ndarray:
        """The data set's ids of classes (D,); without a mapping they are those already."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return classes
        original = {contiguous: number for number, contiguous in mapping.items()}
        if unknown := set(classes.tolist()) - original.keys():
            raise UserError(
                f"Class {min(unknown)} was predicted, but the data set {self._dataset_name!r} has {len(original)} "
                "classes. Is num_classes right?"
            )
        return np.array([original[index] for index in classes.tolist()], np.int64)
