"""Asks Optuna for points, and whether a trial is worth going on with."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from loradet.errors import UserError
from loradet.experiments.search.definition import Prune, Search
from loradet.experiments.search.space import Value
from loradet.experiments.search.trial import DIVERGED, FINISHED, OPEN, PRUNED, Trial

if TYPE_CHECKING:
    import optuna


class Asker:
    """An Optuna study in memory, made anew from the trials that there are.

    Optuna's own files are not used: a line of its journal that a full disk has cut makes all trials unreadable, while a
    trial's folder says by itself what it was.

    The sampler of trial n is seeded by the search's seed and n. One that is seeded once would, in a search that goes
    on, ask for the points of its beginning again.

    Args:
        search: what is searched.
        mode: "max" or "min": which values of the metric are better.
        trials: that there are, by number.

    Raises:
        ImportError: Optuna is not installed.
        UserError: a trial's point is not of this space.
    """

    def __init__(self, search: Search, mode: str, trials: Sequence[Trial]):
        try:
            import optuna
        except ImportError as error:
            raise ImportError("A search needs Optuna: pip install -e '.[search]'.") from error
        self._optuna, self._search = optuna, search
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {one.key: one.distribution() for one in search.space.dimensions}
        direction = "maximize" if mode == "max" else "minimize"
        self._study = optuna.create_study(direction=direction, pruner=_pruner(optuna, search.prune))
        self._asked: dict[int, optuna.trial.Trial] = {}
        for trial in trials:
            self._take(trial)

    def _take(self, trial: Trial) -> None:
        _check_point(self._search, trial)
        if trial.state == OPEN:
            self._study.enqueue_trial(trial.point)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a value beyond bounds that were moved meanwhile
                self._asked[trial.number] = self._ask(trial.number)
            for evaluation, value in enumerate(trial.evaluations, start=1):
                self._asked[trial.number].report(value, evaluation)
            return
        states = self._optuna.trial.TrialState
        known = {FINISHED: states.COMPLETE, PRUNED: states.PRUNED, DIVERGED: states.PRUNED}
        evaluations = dict(enumerate(trial.evaluations, start=1))
        distributions = {one.key: one.distribution(trial.point[one.key]) for one in self._search.space.dimensions}
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=known.get(trial.state, states.FAIL),
                value=trial.value,
                params=trial.point,
                distributions=distributions,
                intermediate_values=evaluations,
            )
        )

    def ask(self, number: int) -> dict[str, Value]:
        """The point of a new trial."""
        self._asked[number] = self._ask(number)
        return dict(self._asked[number].params)

    def _ask(self, number: int) -> "optuna.trial.Trial":
        samplers = self._optuna.samplers
        seed = int(np.random.SeedSequence([self._search.seed, number]).generate_state(1)[0])
        kind = {"tpe": samplers.TPESampler, "random": samplers.RandomSampler}[self._search.sampler]
        self._study.sampler = kind(seed=seed)
        return self._study.ask(self._distributions)

    def report(self, number: int, evaluation: int, value: float) -> bool:
        """Note a trial's evaluation (from 1); whether it should be stopped there."""
        trial = self._asked[number]
        trial.report(value, evaluation)
        return trial.should_prune()

    def tell(self, trial: Trial) -> None:
        """How a trial has ended."""
        states = self._optuna.trial.TrialState
        asked = self._asked.pop(trial.number)
        if trial.state == FINISHED:
            self._study.tell(asked, trial.value)
        else:
            self._study.tell(asked, state=states.PRUNED if trial.state in (PRUNED, DIVERGED) else states.FAIL)


def _pruner(optuna: Any, prune: Prune | None) -> Any:
    if prune is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(
        float(prune.percentile),
        n_startup_trials=prune.startup_trials,
        n_warmup_steps=prune.warmup_evaluations,
    )


def _check_point(search: Search, trial: Trial) -> None:
    keys = {one.key for one in search.space.dimensions}
    if trial.point.keys() != keys:
        changed = ", ".join(sorted(trial.point.keys() ^ keys))
        raise UserError(
            f"{search.path}: trials of other keys are there ({trial.run}: {changed}); give this search another name."
        )
    for one in search.space.dimensions:
        value = trial.point[one.key]
        numeric = isinstance(value, int | float) and math.isfinite(value)
        if (one.kind == "choice" and not one.holds(value)) or (one.kind != "choice" and not numeric):
            raise UserError(
                f"{search.path}: space: {one.key}: {trial.run} has {value}, which is none of {one}; keep what trials "
                "have, or give this search another name."
            )
