"""Checks of a run's files; a run that does not pass has failed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loradet.run_folder import RunFolder
from loradet.training.folder import record

TOLERANCE_MILLIONS = 0.001


def trainable(folder: Path, expected: Mapping[str, float]) -> str | None:
    """Trainable parameters by part ("backbone", "neck", "head", "all") in millions, to 0.001.

    With "classes", the numbers are of that many: a run on data of another number (a stand-in's, say) is not judged.
    """
    run = record.read(folder)
    parameters = run.get("parameters", {})
    expected = dict(expected)
    classes = expected.pop("classes", None)
    if classes is not None and run.get("data", {}).get("train", {}).get("num_classes", classes) != classes:
        return None
    for part, millions in expected.items():
        found = parameters.get(part, {}).get("trainable", 0) / 1e6
        if abs(found - millions) > TOLERANCE_MILLIONS:
            return f"{part} trains {found:.3f} M parameters, expected {millions:.3f} M"
    return None


def metric_at_least(folder: Path, expected: Mapping[str, float]) -> str | None:
    """Lower bounds of metrics, as `{"val coco/bbox_mAP_50": 0.3}`: split ("smoke": of a smoke run) and name."""
    from loradet.evaluation.coco_metrics import read_metrics

    for name, bound in expected.items():
        split, _, metric = name.partition(" ")
        path = RunFolder(folder).split_metrics(split)
        if not path.is_file():
            continue  # a smoke run has no numbers of the whole split
        value = read_metrics(path).get(metric)
        if value is None:
            return f"{path.name} has no {metric}"
        if not value >= bound:
            return f"{split} {metric} is {value:.3f}, expected at least {bound:g}"
    return None


# A check gives None where all is well, else what is not.
CHECKS: dict[str, Callable[[Path, Any], str | None]] = {"trainable": trainable, "metric_at_least": metric_at_least}
