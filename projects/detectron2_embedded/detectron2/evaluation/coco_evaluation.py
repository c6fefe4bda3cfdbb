"""COCO's metrics of boxes, by pycocotools."""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2._subset import ADVICE, missing_names
from detectron2.data.catalog import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation.evaluator import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager, replace_file
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

logger = logging.getLogger(__name__)

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}  # suffix of a metric: index into pycocotools' area ranges


class COCOEvaluator(DatasetEvaluator):
    """Average precision (in percent) of boxes as COCO defines it.

    Args:
        dataset_name: registered name. Its metadata has `json_file`, the ground truth in COCO's format, or the
            records are converted to such a file in `output_dir`.
        tasks: ("bbox",) or None.
        distributed: gather the predictions of all ranks on the main process; else each evaluates its own.
        output_dir: local folder for `coco_instances_results.json` and `instances_predictions.pth`; None
            writes nothing.
        max_dets_per_image: largest number of detections of an image that count, 100 by default. A value under
            10 acts like 10, since pycocotools sorts its limits [1, 10, n].
        use_fast_impl: accepted for compatibility. The embedded Detectron2 has no compiled code and always
            uses pycocotools itself, which gives the same numbers.
        kpt_oks_sigmas: of keypoints, which are not here; must be empty.
        allow_cached_coco: use a converted file of an earlier run.

    Raises:
        NotImplementedError: masks or keypoints are asked for.
        ValueError: a file must be converted and there is no `output_dir`.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,  # noqa: ARG002
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ):
        unsupported = sorted(set(tasks or ()) - {"bbox"}) + ["kpt_oks_sigmas"] * (len(kpt_oks_sigmas) > 0)
        if unsupported:
            raise NotImplementedError(
                f"COCOEvaluator: {', '.join(unsupported)} {ADVICE} For boxes alone: tasks=('bbox',)."
            )
        self._tasks = tuple(tasks or ("bbox",))
        self._distributed = distributed
        self._output_dir = output_dir
        self._max_dets = [1, 10, 100 if max_dets_per_image is None else max_dets_per_image]
        self._metadata = MetadataCatalog.get(dataset_name)
        self._coco_api = _load_ground_truth(self._ground_truth_file(dataset_name, allow_cached_coco))
        self._predictions: list[dict[str, Any]] = []
        self._results = OrderedDict()
        # A test split whose annotations are withheld gets a result file and no metrics.
        self._do_evaluation = "annotations" in self._coco_api.dataset

    def _ground_truth_file(self, dataset_name: str, allow_cached: bool) -> str:
        json_file = self._metadata.get("json_file")
        if json_file is not None:
            return PathManager.get_local_path(json_file)
        if self._output_dir is None:
            raise ValueError(
                f"The metadata of data set {dataset_name!r} has no json_file, so its records must be written "
                "in COCO's format first: give COCOEvaluator an output_dir, or set json_file."
            )
        json_file = os.fspath(Path(self._output_dir, f"{dataset_name}_coco_format.json"))
        convert_to_coco_json(dataset_name, json_file, allow_cached=allow_cached)
        self._metadata.json_file = json_file
        return json_file

    def reset(self) -> None:
        """Forget collected predictions."""
        self._predictions = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take in a batch.

        Args:
            inputs: each with "image_id".
            outputs: each with "instances": `pred_boxes`, `scores`, `pred_classes` (contiguous ids).
        """
        for record, output in zip(inputs, outputs):
            if "proposals" in output:
                raise NotImplementedError(f"COCOEvaluator: evaluating proposals {ADVICE}")
            if "instances" in output:
                instances = output["instances"].to(torch.device("cpu"))
                image_id = record["image_id"]
                self._predictions.append(
                    {"image_id": image_id, "instances": instances_to_coco_json(instances, image_id)}
                )

    def evaluate(self, img_ids: Sequence[int] | None = None) -> OrderedDict | dict:
        """Compute the metrics.

        Args:
            img_ids: images to look at, with or without predictions; all of the ground truth by default.

        Returns:
            {"bbox": {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-<class>" ...}} in percent, NaN where
            nothing can be measured; {} on ranks other than the main one, and where nothing was processed.

        Raises:
            ValueError: predictions are of images that the ground truth does not have.
            AssertionError: predicted classes are outside of the data set's.
        """
        predictions = self._gather()
        if not comm.is_main_process() and self._distributed:
            return {}
        if not predictions:
            logger.warning("COCOEvaluator got no predictions: nothing was processed. No metrics.")
            return {}
        if self._output_dir is not None:
            Path(self._output_dir).mkdir(parents=True, exist_ok=True)
            with replace_file(Path(self._output_dir, "instances_predictions.pth"), "wb") as file:
                torch.save(predictions, file)
        self._results = OrderedDict()
        self._evaluate_boxes(predictions, img_ids)
        return copy.deepcopy(self._results)

    def _gather(self) -> list[dict[str, Any]]:
        if not self._distributed:
            return self._predictions
        comm.synchronize()
        return list(itertools.chain.from_iterable(comm.gather(self._predictions, dst=0)))

    def _evaluate_boxes(self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None) -> None:
        detections = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        self._check_image_ids(predictions)
        category_ids = self._to_dataset_categories(detections)
        if self._output_dir is not None:
            path = Path(self._output_dir, "coco_instances_results.json")
            with replace_file(path) as file:
                file.write(json.dumps(detections))
            logger.info("Wrote %d detections to %s.", len(detections), path)
        if not self._do_evaluation:
            logger.info("The ground truth has no annotations: no metrics.")
            return
        if not detections:
            logger.warning("No detections on any of %d images: metrics are NaN.", len(predictions))
        for task in self._tasks:
            coco_eval = self._run_pycocotools(detections, img_ids, category_ids) if detections else None
            self._results[task] = self._derive_coco_results(coco_eval, task, self._class_names())

    def _check_image_ids(self, predictions: list[dict[str, Any]]) -> None:
        unknown = sorted({p["image_id"] for p in predictions} - self._coco_api.imgs.keys(), key=str)
        if unknown:
            raise ValueError(
                f"{len(unknown)} images with predictions, such as image_id {unknown[:5]}, are not in the "
                f"ground truth {self._metadata.get('json_file')}. "
                "Evaluate on the data set that the model was run on."
            )

    def _to_dataset_categories(self, detections: list[dict[str, Any]]) -> list[int] | None:
        """Put the data set's category ids into the detections; returns these ids, None = as is."""
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if id_map is None:
            return None
        dataset_id = {contiguous: original for original, contiguous in id_map.items()}
        if sorted(dataset_id) != list(range(len(dataset_id))):
            raise AssertionError(f"Contiguous category ids must be 0 to n - 1, got {sorted(dataset_id)}.")
        for detection in detections:
            predicted = detection["category_id"]
            if predicted not in dataset_id:
                raise AssertionError(
                    f"Class {predicted} was predicted on image {detection['image_id']}, but the data set "
                    f"{self._metadata.name!r} has {len(dataset_id)} classes. Is num_classes right?"
                )
            detection["category_id"] = dataset_id[predicted]
        return [dataset_id[i] for i in range(len(dataset_id))]

    def _class_names(self) -> list[str] | None:
        """Class names in the order of pycocotools' categories, which is that of the data set's ids."""
        names = self._metadata.get("thing_classes")
        id_map = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if names is None or id_map is None:
            return names
        return [names[id_map[category_id]] for category_id in sorted(id_map)]

    def _run_pycocotools(
        self,
        detections: list[dict[str, Any]],
        img_ids: Sequence[int] | None,
        category_ids: Sequence[int] | None,
    ) -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            # loadRes writes into what it is given.
            coco_eval = COCOeval(self._coco_api, self._coco_api.loadRes([dict(d) for d in detections]), "bbox")
            coco_eval.params.maxDets = self._max_dets
            if category_ids is not None:
                coco_eval.params.catIds = sorted(category_ids)
            if img_ids is not None:
                coco_eval.params.imgIds = list(img_ids)
            coco_eval.evaluate()
            coco_eval.accumulate()
        return coco_eval

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Metrics in percent from pycocotools' arrays, logged as tables; all NaN without any detection."""
        if coco_eval is None:
            return dict.fromkeys(["AP", "AP50", "AP75", "APs", "APm", "APl"], float("nan"))
        # precision: IoU threshold, recall, class, area, limit of detections; -1 where there is no ground
        # truth.
        precision = coco_eval.eval["precision"]
        thresholds = coco_eval.params.iouThrs
        results = {"AP": _mean_percent(precision[..., 0, -1])}
        for percent in (50, 75):
            results[f"AP{percent}"] = _mean_percent(precision[np.isclose(thresholds, percent / 100)][..., 0, -1])
        for size in ("s", "m", "l"):
            results[f"AP{size}"] = _mean_percent(precision[..., _AREAS[size], -1])
        recall = _recall_metrics(coco_eval)
        logger.info("Results of %s:\n%s", iou_type, create_small_table({**results, **recall}))
        undefined = [name for name, value in results.items() if np.isnan(value)]
        if undefined:
            logger.warning("No ground truth for %s: NaN.", ", ".join(undefined))
        if class_names is None or len(class_names) <= 1:
            return results
        if len(class_names) != precision.shape[2]:
            raise AssertionError(
                f"The metadata of {self._metadata.name!r} has {len(class_names)} thing_classes, "
                f"its ground truth {precision.shape[2]} categories."
            )
        per_class = {name: _mean_percent(precision[:, :, k, 0, -1]) for k, name in enumerate(class_names)}
        logger.info("%s AP of each class:\n%s", iou_type, _class_table(per_class))
        results.update({f"AP-{name}": value for name, value in per_class.items()})
        return results


def _load_ground_truth(json_file: str) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(json_file)
    coco.dataset.setdefault("info", {})  # older pycocotools cannot load results without it
    return coco


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """Detections of one image in COCO's result format: boxes XYWH, category ids as the model gives them.

    Raises:
        NotImplementedError: there are masks or keypoints.
    """
    unsupported = [field for field in ("pred_masks", "pred_keypoints") if instances.has(field)]
    if unsupported:
        raise NotImplementedError(f"instances_to_coco_json: {', '.join(unsupported)} {ADVICE}")
    if not len(instances):
        return []
    boxes = BoxMode.convert(instances.pred_boxes.tensor, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS).tolist()
    columns = zip(instances.pred_classes.tolist(), boxes, instances.scores.tolist())
    return [{"image_id": img_id, "category_id": c, "bbox": b, "score": s} for c, b, s in columns]


def _mean_percent(values: np.ndarray) -> float:
    """100 x the mean of what is defined (not -1), NaN where nothing is."""
    defined = values[values > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")


def _recall_metrics(coco_eval: COCOeval) -> dict[str, float]:
    recall = coco_eval.eval["recall"]  # IoU threshold, class, area, limit of detections
    limits = coco_eval.params.maxDets
    metrics = {f"AR@{limit}": _mean_percent(recall[..., 0, i]) for i, limit in enumerate(limits)}
    metrics.update({f"AR{size}@{limits[-1]}": _mean_percent(recall[..., _AREAS[size], -1]) for size in "sml"})
    return metrics


def _class_table(per_class: Mapping[str, float]) -> str:
    cells = list(per_class.items())
    columns = min(3, len(cells))
    rows = [list(itertools.chain.from_iterable(cells[i : i + columns])) for i in range(0, len(cells), columns)]
    return tabulate(rows, headers=["category", "AP"] * columns, tablefmt="pipe", floatfmt=".3f", numalign="left")


__getattr__ = missing_names(__name__, ["COCOevalMaxDets"])
