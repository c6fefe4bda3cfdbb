"""COCO metrics, calibration, intervals, kinds of errors, and what a model costs."""

from typing import Any

__all__ = ["CalibrationEvaluator"]


def __getattr__(name: str) -> Any:
    # Most of the package needs no torch; this evaluator does.
    if name == "CalibrationEvaluator":
        from loradet.evaluation.calibration import CalibrationEvaluator

        return CalibrationEvaluator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
