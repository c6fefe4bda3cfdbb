"""How far the scores of detections can be trusted: measures, temperature scaling, reports."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.evaluation.calibration.evaluator import CalibrationEvaluator
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["CalibrationEvaluator"]
