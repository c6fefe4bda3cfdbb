"""Which runs are asked for."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loradet.config import load_config
from loradet.config.overrides import apply_overrides
from loradet.errors import UserError
from loradet.experiments.running.data import run_data
from loradet.experiments.running.run import Run, named_error
from loradet.experiments.study.definition import Entry, Study


def plan(
    study: Study,
    ids: Sequence[str] = (),
    *,
    mode: str = "full",
    seeds: Sequence[int] | None = None,
    root: str | os.PathLike = "work_dirs",
) -> list[Run]:
    """The runs of some entries (of all, where none is named), in the study's order.

    Args:
        mode: "full" or "smoke".
        seeds: instead of each entry's own (a smoke run's own is the first of them).

    Raises:
        ValueError: an unknown id, a negative seed, or an entry's config or override is wrong; the entry is named.
    """
    if seeds is not None and any(seed < 0 for seed in seeds):
        raise UserError(f"seeds {', '.join(map(str, seeds))}: expected whole numbers from 0 on.")
    wanted = {study.entry(name).id for name in ids}
    runs: list[Run] = []
    for entry in study.entries:
        if wanted and entry.id not in wanted:
            continue
        if entry.kind == "training":
            runs += _training_runs(study, entry, mode, seeds, Path(root))
        else:
            runs.append(_pictures_run(study, entry, mode, seeds, Path(root)))
    return runs


def _training_runs(study: Study, entry: Entry, mode: str, seeds: Sequence[int] | None, root: Path) -> list[Run]:
    own = entry.seeds[:1] if mode == "smoke" else entry.seeds
    first = Run(study=study, entry=entry, mode=mode, seed=own[0], root=root)
    try:
        data = run_data(study, entry, short=first.is_short, root=root)
    except (ValueError, OSError, OmegaConfBaseException) as error:
        raise named_error(entry, error) from error
    runs = [replace(first, seed=seed, data=data) for seed in dict.fromkeys(own if seeds is None else seeds)]
    # What is wrong shows before anything is begun.
    _ = runs[0].config
    _check_overrides(entry)
    return runs


def _check_overrides(entry: Entry) -> None:
    """Raises ValueError where one of an entry's overrides changes nothing."""
    if not entry.overrides:
        return
    config = load_config(entry.config, [])
    later = [word.partition("=")[0] for word in entry.overrides]
    for word in entry.overrides:
        before = OmegaConf.to_container(config)
        apply_overrides(config, [word])
        if OmegaConf.to_container(config) == before or later.pop(0) in later:
            raise UserError(f"Entry {entry.id}: the override {word} changes nothing in {entry.config}")


def _pictures_run(study: Study, entry: Entry, mode: str, seeds: Sequence[int] | None, root: Path) -> Run:
    """Paints one run of each source: that of the first seed."""
    chosen = None if seeds is None else seeds[:1]
    sources = [_training_runs(study, study.entry(name), mode, chosen, root)[0] for name in entry.sources]
    return Run(study=study, entry=entry, mode=mode, seed=entry.seeds[0], root=root, sources=tuple(sources))
