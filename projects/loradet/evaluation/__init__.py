"""COCO metrics, calibration, intervals, kinds of errors, and what a model costs."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.evaluation import coco_metrics
    from loradet.evaluation.box_evaluator import BoxEvaluator
    from loradet.evaluation.calibration.evaluator import CalibrationEvaluator
    from loradet.evaluation.split import Split
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["BoxEvaluator", "CalibrationEvaluator", "Split", "coco_metrics"]
