"""Checks of data sets: what is wrong with annotations and pictures, and a repaired copy.

`check` and `fix` take one COCO file, `check_splits` a list of `Split`. A file goes through `categories`, `pictures`,
`images` and `annotations`, in this order; `columns` leaves to the last what numpy cannot say to be right. What looks at
all of a split has its `SplitContent`: `across` compares splits, `anchors` says which boxes anchors reach.
"""

from loradet.datasets.boxes import TOLERANCE
from loradet.datasets.checks.check import SetReport, Split, check, check_splits, fix, splits_of
from loradet.datasets.checks.findings import Problem, Report

__all__ = ["TOLERANCE", "Problem", "Report", "SetReport", "Split", "check", "check_splits", "fix", "splits_of"]
