"""How far the scores of detections can be trusted: measures, temperature scaling, reports."""

from typing import Any

__all__ = ["CalibrationEvaluator"]


def __getattr__(name: str) -> Any:
    if name == "CalibrationEvaluator":  # which needs torch
        from loradet.evaluation.calibration.evaluator import CalibrationEvaluator

        return CalibrationEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
