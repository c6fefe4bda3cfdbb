"""The page of a search: its best trial, all trials, what each value has come to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from loradet.evaluation.coco_metrics import read_metrics
from loradet.experiments.pages.document import Document, Section, Table, to_markdown
from loradet.experiments.pages.figures import Plot, drawing_style
from loradet.experiments.pages.html import to_html
from loradet.experiments.pages.search_plots import trial_plots
from loradet.experiments.search.definition import Search
from loradet.experiments.search.space import shown
from loradet.experiments.search.state import Objective
from loradet.experiments.search.trial import FINISHED, OPEN, STATES, Trial
from loradet.experiments.study.definition import MAIN_METRIC
from loradet.files import atomic_open
from loradet.run_folder import RunFolder
from loradet.training.folder import record
from loradet.wording import in_minutes


def search_table(search: Search, folder: Path, objective: Objective, trials: Sequence[Trial]) -> str:
    """All trials, the best first, for a terminal."""
    table = _trial_table(search, folder, objective, trials)
    return tabulate(table.rows, headers=table.headers, disable_numparse=True)


def write_search_report(search: Search, folder: Path, objective: Objective, trials: Sequence[Trial]) -> list[Path]:
    """Write `search.md`, `search.html`, `plots/*.png` and `trials.json` into the search's folder; returns the pages."""
    with drawing_style():
        plots = trial_plots(search, objective, trials)
    document = _document(search, folder, objective, trials, plots)
    contents: dict[Path, bytes] = {
        folder / "search.md": to_markdown(document).encode(),
        folder / "search.html": to_html(document).encode(),
        folder / "trials.json": json.dumps(_plain(search, folder, objective, trials), indent=2).encode(),
        **{folder / "plots" / f"{plot.name}.png": plot.png for plot in plots},
    }
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(path, "wb") as file:
            file.write(content)
    return [path for path in contents if path.suffix in (".md", ".html")]


def _document(
    search: Search, folder: Path, objective: Objective, trials: Sequence[Trial], plots: Sequence[Plot]
) -> Document:
    space = Table(("key", "what it may be"), [(key, text) for key, text in search.space.described().items()])
    table = _trial_table(search, folder, objective, trials)
    bold = frozenset((0, column) for column in range(len(table.headers))) if objective.best(trials) else frozenset()
    sections = [
        Section("Best", _best(search, folder, objective, trials)),
        Section("Trials", _about(search, objective), [Table(table.headers, table.rows, bold)], plots),
        Section("Space", [_settings(search)], [space]),
    ]
    return Document(search.title or f"Search {search.name}", [], sections)


def _best(search: Search, folder: Path, objective: Objective, trials: Sequence[Trial]) -> list[str]:
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    best = objective.best(trials)
    if best is None:
        return [f"No trial has finished. Of {search.trials}: {told or 'none begun'}."]
    values = ", ".join(word for word in search.space.words({k: _rounded(v) for k, v in best.point.items()}))
    first = search.splits[0]
    ap = _ap(search, folder, best)
    figures = [f"{objective.metric} {shown(best.value)} on {first}"]
    figures += [f"AP {ap[split]:.3f} on {split}" for split in search.splits if split in ap]
    lines = [
        f"{best.run}: {values}. {', '.join(figures)}. Of {len(trials)} trials: {told}.",
        f"Its value on {first} is optimistic: it is the best of {counts[FINISHED]} finished trials, chosen by that "
        f"very number, and of one seed each. {_unbiased(search, ap)} Before it is compared with anything else, train "
        "best.py with several seeds.",
    ]
    if counts[OPEN]:
        lines.append("Trials are open; the same command goes on with them.")
    return lines


def _unbiased(search: Search, ap: Mapping[str, float]) -> str:
    first = search.splits[0]
    others = [split for split in search.splits[1:] if split in ap]
    if not others:
        return f"No other split was evaluated: with splits: [{first}, test] the page would have a number to believe."
    return f"The number to believe is that of {others[0]}, {ap[others[0]]:.3f}, by which nothing was chosen."


def _about(search: Search, objective: Objective) -> list[str]:
    way = "highest" if objective.mode == "max" else "lowest"
    return [
        f"By {objective.metric} of the best evaluation on {search.splits[0]}, the {way} first; of a trial that was "
        "stopped the best evaluation that it had. AP are COCO's of the best weights, as fractions."
    ]


def _settings(search: Search) -> str:
    prune = search.prune
    stopping = (
        "no trial is stopped early"
        if prune is None
        else f"from trial {prune.startup_trials + 1} on, one whose best evaluation lies beyond the others' percentile "
        f"{prune.percentile:g} is stopped, after {prune.warmup_evaluations + 1} of its own at the earliest"
    )
    return f"From {search.config}; sampler {search.sampler}, seed {search.seed}; {stopping}."


def _rounded(value: Any) -> Any:
    return float(shown(value)) if isinstance(value, float) else value


def _trial_table(search: Search, folder: Path, objective: Objective, trials: Sequence[Trial]) -> Table:
    keys = [one.key for one in search.space.dimensions]
    headers = ("run", *_short(keys), objective.metric, *(f"AP {split}" for split in search.splits))
    sign = -1.0 if objective.mode == "max" else 1.0

    def order(trial: Trial) -> tuple:
        value = objective.reached(trial)
        return (STATES.index(trial.state) if trial.state != OPEN else len(STATES), sign * (value or 0.0), trial.number)

    rows = []
    for trial in sorted(trials, key=order):
        value, ap = objective.reached(trial), _ap(search, folder, trial)
        rows.append(
            (
                trial.run,
                *(shown(trial.point[key]) for key in keys),
                "-" if value is None else shown(value),
                *(f"{ap[split]:.3f}" if split in ap else "-" for split in search.splits),
                str(len(trial.evaluations) or "-"),
                _time(folder, trial),
                trial.state,
                trial.detail,
            )
        )
    return Table((*headers, "evaluations", "time", "state", ""), rows)


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of each key, with as many before it as it takes to tell them apart."""
    names = []
    for key in keys:
        parts = key.split(".")
        length = next(n for n in range(1, len(parts) + 1) if _ends(keys, parts[-n:]) == 1 or n == len(parts))
        names.append(".".join(parts[-length:]))
    return names


def _ends(keys: Sequence[str], tail: Sequence[str]) -> int:
    return sum(key.split(".")[-len(tail) :] == list(tail) for key in keys)


def _ap(search: Search, folder: Path, trial: Trial) -> dict[str, float]:
    """AP by split, of a finished trial."""
    found = {}
    for split in search.splits if trial.state == FINISHED else ():
        file = RunFolder(folder / trial.run).split_metrics(split)
        value = read_metrics(file).get(MAIN_METRIC) if file.is_file() else None
        if value is not None:
            found[split] = value
    return found


def _time(folder: Path, trial: Trial) -> str:
    seconds = record.read(folder / trial.run).get("wall_time_s")
    return "-" if seconds is None else in_minutes(seconds)


def _plain(search: Search, folder: Path, objective: Objective, trials: Sequence[Trial]) -> dict[str, Any]:
    best = objective.best(trials)
    return {
        "name": search.name,
        "config": search.config,
        "overrides": list(search.overrides),
        "space": search.space.described(),
        "metric": objective.metric,
        "mode": objective.mode,
        "best": None if best is None else best.number,
        "trials": [{**asdict(trial), "ap": _ap(search, folder, trial)} for trial in trials],
    }
