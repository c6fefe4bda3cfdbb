"""Collects the detections of a data set in Detectron2's evaluation loop."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """D detections of one image.

    Attributes:
        xywh: (D, 4) boxes in pixels, float64 of the boxes' own precision.
        category_ids: (D,) the data set's; contiguous ones until they are gathered.
        scores: (D,).
    """

    xywh: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray


class DetectionCollector(DatasetEvaluator):
    """What evaluators of boxes have in common: a data set, its ground truth, and what was found in each image.

    Args:
        dataset_name: registered name. Its metadata has `json_file`, the ground truth in COCO's format, or the records
            are converted to such a file in `output_dir`.
        output_dir: folder for what is written; None writes nothing.
        distributed: gather the detections of all processes on the main one; else each measures its own.

    Raises:
        UserError: records must be converted and there is no `output_dir`.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, *, distributed: bool = True):
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._distributed = distributed
        self._metadata = MetadataCatalog.get(dataset_name)
        self._ground_truth = self._ground_truth_file()
        self._found: dict[Any, ImageDetections] = {}

    def _ground_truth_file(self) -> str:
        if (file := self._metadata.get("json_file")) is not None:
            return PathManager.get_local_path(file)
        if self._output_dir is None:
            raise UserError(
                f"The metadata of data set {self._dataset_name!r} has no json_file, so its records must be written in "
                f"COCO's format first: give {type(self).__name__} an output_dir, or set json_file."
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
            # Converted in the boxes' own precision, as Detectron2's COCOEvaluator writes them.
            boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
            self._found[record["image_id"]] = ImageDetections(
                boxes.double().numpy(),
                instances.pred_classes.long().numpy(),
                instances.scores.double().numpy(),
            )

    def gather(self) -> dict[Any, ImageDetections] | None:
        """What was found by image id, of all processes; None where it is another process's work to measure it.

        Raises:
            UserError: a class that the data set does not have.
        """
        found = self._found
        if self._distributed:
            comm.synchronize()
            parts = comm.gather(found, dst=0)
            if not comm.is_main_process():
                return None
            found = dict(itertools.chain.from_iterable(part.items() for part in parts))
        # Not in `process`: an error there on one process would leave the others waiting.
        return {number: self._numbered(one) for number, one in found.items()}

    def _numbered(self, found: ImageDetections) -> ImageDetections:
        """With the data set's ids for contiguous ones; without a mapping they are those already."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return found
        original = {contiguous: number for number, contiguous in mapping.items()}
        if unknown := set(found.category_ids.tolist()) - original.keys():
            raise UserError(
                f"Class {min(unknown)} was predicted, but the data set {self._dataset_name!r} has {len(original)} "
                "classes. Is num_classes right?"
            )
        return replace(found, category_ids=np.array([original[i] for i in found.category_ids.tolist()], np.int64))
