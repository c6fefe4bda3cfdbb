"""What a search remembers of itself beside its trials, and what trials are compared by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from loradet.config.flattening import flatten
from loradet.errors import UserError
from loradet.experiments.search.definition import Search
from loradet.experiments.search.trial import FINISHED, Trial
from loradet.files import read_json, write_json
from loradet.training.folder.record import config_identity
from loradet.wording import shorten

STATE = "search.json"


@dataclass(frozen=True)
class Objective:
    """What trials are compared by: what chooses a run's best weights.

    Attributes:
        metric: `train.best.metric` of the config, as "bbox/AP", in percent where that is.
        mode: "max" or "min".
    """

    metric: str
    mode: str

    def evaluations(self, lines: Sequence[Mapping[str, Any]]) -> list[float]:
        """The metric at each evaluation, by the lines of a metrics file; 0 where nothing was detected."""
        found = []
        for line in lines:
            value = line.get(self.metric)
            nothing = self.metric.startswith("bbox/") and _is_nan(line.get(self.metric.partition("-")[0]))
            if nothing or _is_nan(value):
                value = 0.0 if self.metric.startswith("bbox/") else None
            if value is not None:
                found.append(float(value))
        return found

    def value(self, record: Mapping[str, Any]) -> float | None:
        """Of a finished run, by its `run.json`; 0 where nothing was detected, None where it is no number."""
        value = (record.get("best") or {}).get("value")
        if value is None and self.metric.startswith("bbox/"):
            return 0.0
        return None if value is None else float(value)

    def reached(self, trial: Trial) -> float | None:
        """The best value that a trial has had, finished or not."""
        if trial.value is not None or not trial.evaluations:
            return trial.value
        return max(trial.evaluations) if self.mode == "max" else min(trial.evaluations)

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The best finished trial, the first of equals."""
        finished = [trial for trial in trials if trial.state == FINISHED and trial.value is not None]
        sign = -1.0 if self.mode == "max" else 1.0
        return min(finished, key=lambda trial: (sign * trial.value, trial.number), default=None)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def objective_of(config: DictConfig) -> Objective:
    """By the config that all trials share."""
    return Objective(config.train.best.metric, config.train.best.mode)


def check_same(search: Search, folder: Path, config: DictConfig) -> None:
    """Compare what all trials share with what it was when the search began; note it where this is the beginning.

    Raises:
        UserError: it has changed; the keys are named.
        FileError: what was noted cannot be read.
    """
    file = folder / STATE
    follows = {f"space: {one.key}": f"{one.factor:g} times {one.of}" for one in search.space.multiples}
    now = flatten(config_identity(config)) | follows
    if file.is_file():
        advice = "Put the whole file back, or give the search another name."
        past = read_json(file, advice=advice).get("config", {})
        keys = sorted(key for key in past.keys() | now.keys() if past.get(key) != now.get(key))
        if keys:
            changes = [f"{key} is {now.get(key, 'gone')}, was {past.get(key, 'not there')}" for key in keys]
            raise UserError(
                f"{folder} holds trials of another config: {shorten(changes, 3)}; give this search another name."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, {"config": now})
