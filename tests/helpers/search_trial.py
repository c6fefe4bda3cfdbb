"""A search over the tests' tiny detector, and an executor that leaves run folders as trainings would."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from helpers.engine_study import leave_metrics, leave_record
from loradet.experiments.running.state import inspect
from loradet.run_folder import RunFolder

LR = "optimizer.lr"
RANK = "model.backbone.bottom_up.rank"
ALPHA = "model.backbone.bottom_up.alpha"
SPACE = {LR: {"loguniform": ["1e-5", 1e-2]}, RANK: {"choice": [2, 4, 8]}, ALPHA: {"times": [RANK, 2]}}


def write_search(folder: Path, **values) -> Path:
    """A search.yaml over the tiny detector; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    overrides = [f"data.root={folder / 'data'}", "train.device=cpu", *values.pop("overrides", [])]
    content = {
        "name": "tiny",
        "config": "tests/configs/tiny.py",
        "overrides": overrides,
        "scenes": {"root": str(folder / "data"), "size": 64, "counts": {"train": 6, "val": 4, "test": 4}},
        "trials": 6,
        "space": SPACE,
        **values,
    }
    file = folder / "search.yaml"
    given = {key: value for key, value in content.items() if value is not None}
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return file


def height(config) -> float:
    """An AP that has its best at a learning rate of 1e-3 and rank 4, as a percentage."""
    return 50 - 10 * abs(math.log10(config.optimizer.lr / 1e-3)) - abs(config.model.backbone.bottom_up.rank - 4)


class PretendingExecutor:
    """Stands for trainings: four evaluations of a rising AP, whose last one is `height` of the run's config.

    Args:
        outcome: of a run, "finished", "interrupted", or the error that it failed with.
        pause_s: between evaluations.
    """

    def __init__(self, outcome: Callable = lambda run: "finished", pause_s: float = 0.0):  # noqa: ARG005
        self.outcome, self.pause_s = outcome, pause_s
        self.carried_out: list[str] = []

    def __call__(self, runs):
        for run in runs:
            self.carried_out.append(run.name)
            self._carry_out(run)
            yield run, inspect(run)

    def _carry_out(self, run) -> None:
        outcome, folder, lines = self.outcome(run), RunFolder(run.folder), []
        if outcome not in ("finished", "interrupted"):
            leave_record(run, "failed", error=outcome)
            return
        values = [height(run.config) * part for part in (0.25, 0.5, 0.75, 1.0)]
        run.folder.mkdir(parents=True, exist_ok=True)
        for number, value in enumerate(values):
            lines.append(json.dumps({"iteration": number, "bbox/AP": value}))
            folder.metrics.write_text("\n".join(lines) + "\n")
            time.sleep(self.pause_s)
            if outcome == "interrupted" or folder.stop.exists():
                leave_record(run, "interrupted", iteration=number)
                return
        leave_record(run, best={"metric": "bbox/AP", "value": values[-1], "iteration": 3}, wall_time_s=1.5)
        leave_metrics(run, **{"coco/bbox_mAP": values[-1] / 100})
