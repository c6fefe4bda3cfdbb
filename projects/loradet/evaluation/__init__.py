"""COCO metrics, calibration, intervals, kinds of errors, and what a model costs."""

from typing import Any

__all__ = ["BoxEvaluator", "CalibrationEvaluator", "Split"]


def __getattr__(name: str) -> Any:
    # Most of the package needs no torch; these do.
    if name == "BoxEvaluator":
        from loradet.evaluation.box_evaluator import BoxEvaluator

        return BoxEvaluator
    if name == "CalibrationEvaluator":
        from loradet.evaluation.calibration.evaluator import CalibrationEvaluator

        return CalibrationEvaluator
    if name == "Split":
        from loradet.evaluation.split import Split

        return Split
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
