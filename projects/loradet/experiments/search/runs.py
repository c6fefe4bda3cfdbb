"""Runs of a search's trials."""

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config.overrides import apply_overrides
from loradet.errors import is_user_error
from loradet.experiments.running.data import RunData, run_data
from loradet.experiments.running.run import Run
from loradet.experiments.search.definition import Search
from loradet.experiments.search.space import Value
from loradet.experiments.search.trial import Trial


class TrialRuns:
    """Makes runs of trials; what all of them share is read once.

    Args:
        search: what is searched.
        folder: of the search.
    """

    def __init__(self, search: Search, folder: Path):
        self.search, self.folder = search, folder

    @cached_property
    def base(self) -> DictConfig:
        """The config that trials begin from."""
        return self.search.base_config()

    @cached_property
    def _data(self) -> RunData:
        return run_data(self.search.study(), self.search.entry(0, []), self.base, short=False, root=self.folder)

    def new_trial(self, number: int, point: dict[str, Value]) -> Trial:
        """A trial that has not begun."""
        return Trial(number=number, run=f"{self._id(number)}_full", point=point, words=self._words(point))

    def _id(self, number: int) -> str:
        return self.search.entry(number, []).id

    def _words(self, point: Mapping[str, Value]) -> list[str]:
        """The overrides of a point that change something; an entry of a study has no others."""
        config, kept = copy.deepcopy(self.base), []
        for word in self.search.space.words(point):
            before = OmegaConf.to_container(config)
            try:
                apply_overrides(config, [word])
            except (ValueError, OmegaConfBaseException) as error:
                if not is_user_error(error):
                    raise
                return self.search.space.words(point)  # the run says what is wrong
            if OmegaConf.to_container(config) != before:
                kept.append(word)
        return kept

    def run(self, trial: Trial) -> Run:
        """The run of a trial.

        Raises:
            UserError: its config cannot be made.
        """
        entry = self.search.entry(trial.number, trial.words)
        run = Run(
            study=self.search.study(entry),
            entry=entry,
            mode="full",
            seed=self.search.seed,
            root=self.folder,
            data=self._data,
        )
        _ = run.config  # here: the loading of configs is not for threads
        return run
