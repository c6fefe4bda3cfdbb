"""Evaluators and the loop that runs them."""

from detectron2._subset import missing_names
from detectron2.evaluation.coco_evaluation import COCOEvaluator, instances_to_coco_json
from detectron2.evaluation.evaluator import (
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
)
from detectron2.evaluation.testing import flatten_results_dict, print_csv_format

__all__ = [
    "COCOEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "flatten_results_dict",
    "inference_context",
    "inference_on_dataset",
    "instances_to_coco_json",
    "print_csv_format",
]

__getattr__ = missing_names(
    __name__,
    [
        "COCOPanopticEvaluator",
        "CityscapesInstanceEvaluator",
        "CityscapesSemSegEvaluator",
        "LVISEvaluator",
        "PascalVOCDetectionEvaluator",
        "RotatedCOCOEvaluator",
        "SemSegEvaluator",
        "verify_results",
        # Modules
        "cityscapes_evaluation",
        "fast_eval_api",
        "lvis_evaluation",
        "panoptic_evaluation",
        "pascal_voc_evaluation",
        "rotated_coco_evaluation",
        "sem_seg_evaluation",
    ],
)
