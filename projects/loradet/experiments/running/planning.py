"""Which runs are asked for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config.library import find_config
from loradet.errors import UserError
from loradet.experiments.running.data import run_data
from loradet.experiments.running.run import Run
from loradet.experiments.study.catalogue import shared_ids
from loradet.experiments.study.config_memo import ConfigMemo
from loradet.experiments.study.definition import Entry, Study
from loradet.experiments.study.reading import ConfigReader, named_error


def plan(
    study: Study,
    ids: Sequence[str] = (),
    *,
    mode: str = "full",
    seeds: Sequence[int] | None = None,
    root: str | os.PathLike = "work_dirs",
    memo: ConfigMemo | None = None,
) -> list[Run]:
    """The runs of some entries (of all, where none is named), in the study's order.

    Args:
        mode: "full" or "smoke".
        seeds: instead of each entry's own (a smoke run's own is the first of them).
        root: folder of the run folders.
        memo: what is known of configs.

    Raises:
        ValueError: an unknown id, a negative seed, an entry's config or override is wrong, or the study says otherwise
            than a config; the entry is named.
    """
    if seeds is not None and any(seed < 0 for seed in seeds):
        raise UserError(f"seeds {', '.join(map(str, seeds))}: expected whole numbers from 0 on.")
    wanted = {study.entry(name).id for name in ids}
    planner = _Planner(study, mode, seeds, Path(root), ConfigReader(study, memo or ConfigMemo()), shared_ids(study))
    runs = [run for entry in study.entries if not wanted or entry.id in wanted for run in planner.runs(entry)]
    if not wanted:
        planner.reader.check_labels()
    return runs


@dataclass(frozen=True)
class _Planner:
    """What all runs of a plan share."""

    study: Study
    mode: str
    seeds: Sequence[int] | None
    root: Path
    reader: ConfigReader
    shared: frozenset[str]

    def runs(self, entry: Entry) -> list[Run]:
        if entry.kind == "training":
            return self._trainings(entry, self.seeds)
        # Paints one run of each source: that of the first seed.
        chosen = None if self.seeds is None else self.seeds[:1]
        sources = tuple(self._trainings(self.study.entry(name), chosen)[0] for name in entry.sources)
        return [replace(self._run(entry), sources=sources)]

    def _trainings(self, entry: Entry, seeds: Sequence[int] | None) -> list[Run]:
        config, entry = self.reader.data(entry), self.reader.entry(entry)
        first = self._run(entry)
        try:
            data = run_data(self.study, entry, config, short=first.is_short, root=self.root)
        except (ValueError, OSError, OmegaConfBaseException) as error:
            raise named_error(entry, error) from error
        own = entry.seeds[:1] if self.mode == "smoke" else entry.seeds
        runs = [replace(first, seed=seed, data=data) for seed in dict.fromkeys(own if seeds is None else seeds)]
        # What is wrong shows before anything is begun.
        _ = runs[0].identity
        if entry.overrides:
            words, file = list(entry.overrides), find_config(entry.config)
            self.reader.memo.get("effective", file, words, lambda: _check_overrides(entry))
        return runs

    def _run(self, entry: Entry) -> Run:
        return Run(
            study=self.study,
            entry=entry,
            mode=self.mode,
            seed=entry.seeds[0],
            root=self.root,
            shares_id=entry.id in self.shared,
            memo=self.reader.memo,
        )


def _check_overrides(entry: Entry) -> None:
    """Raises ValueError where one of an entry's overrides changes nothing."""
    from loradet.config import load_config
    from loradet.config.overrides import apply_overrides

    config = load_config(entry.config, [])
    later = [word.partition("=")[0] for word in entry.overrides]
    for word in entry.overrides:
        before = OmegaConf.to_container(config)
        apply_overrides(config, [word])
        if OmegaConf.to_container(config) == before or later.pop(0) in later:
            raise UserError(f"Entry {entry.id}: the override {word} changes nothing in {entry.config}")
