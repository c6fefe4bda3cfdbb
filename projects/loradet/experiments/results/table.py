"""Runs of a study as rows, one for each experiment and split, beside what was reported of them."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loradet.experiments.results.consistency import is_short
from loradet.experiments.results.folders import Result
from loradet.experiments.results.seed_statistics import PairedDifference, Summary, paired_difference, summarize
from loradet.experiments.study.definition import MAIN_METRIC, Entry, Study

PARTS = ("backbone", "neck", "head", "all")
COSTS = ("images_per_s", "peak_memory_mb", "train_seconds", "wall_time_s")
# Columns of the table -> names in `efficiency` of a run's record.
INFERENCE = {
    "inference_images_per_s": "images/s",
    **{f"inference_{part}_share": f"{part}_share" for part in ("data", "forward", "postprocessing")},
    "inference_peak_memory_mb": "peak_memory_mb",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """An experiment on a split.

    Attributes:
        runs: one for each seed, those without numbers too.
        metrics: name -> summary over the finished runs; COCO's are fractions.
        reported: the same for the published numbers.
    """

    entry: Entry
    split: str
    runs: tuple[Result, ...]
    metrics: Mapping[str, Summary]
    reported: Mapping[str, Summary]

    @property
    def measured(self) -> tuple[Result, ...]:
        """The finished runs that have metrics of the split."""
        return tuple(run for run in self.runs if _metrics(run, self.split))

    @property
    def states(self) -> str:
        """`2 of 3; seed 1 failed`: how many runs have numbers, and why the others have none."""
        seeds: dict[str, list[str]] = {}
        for run in self.runs:
            if not _metrics(run, self.split):
                seeds.setdefault(self._why(run), []).append(str(run.seed))
        lacking = [f"seed{'s' * (len(s) > 1)} {', '.join(s)} {why}" for why, s in seeds.items()]
        return "; ".join([f"{len(self.measured)} of {len(self.runs)}", *lacking])

    @property
    def state(self) -> str:
        """In a word or two why no run has numbers; empty where one has."""
        reasons = list(dict.fromkeys(self._why(run) for run in self.runs))
        return "" if self.measured else reasons[0] if len(reasons) == 1 else "missing"

    def _why(self, run: Result) -> str:
        return run.state if run.state != "finished" else f"finished without {self.split} metrics"

    @property
    def data(self) -> str:
        """ "synthetic" where the images are."""
        return "synthetic" if any(run.synthetic for run in self.measured) else ""

    def parameters(self, part: str, kind: str = "trainable") -> int | None:
        """Number of parameters of "backbone", "neck", "head" or "all", from the first finished run."""
        for run in self.measured:
            if part in run.record.get("parameters", {}):
                return run.record["parameters"][part][kind]
        return None

    def cost(self, name: str) -> Summary | None:
        """One of `COSTS` or `INFERENCE` over the finished runs; memory in MiB."""
        if name in INFERENCE:
            return summarize((run.record.get("efficiency") or {}).get(INFERENCE[name]) for run in self.measured)
        return summarize(run.record.get(name) for run in self.measured)

    def efficiency(self, name: str) -> str:
        """What the finished runs say of how inference was measured, as `batch`: each different answer once.

        Sizes, (height, width), become `512x640`.
        """
        values = [(run.record.get("efficiency") or {}).get(name) for run in self.measured]
        words = ["x".join(map(str, value)) if isinstance(value, list) else str(value) for value in values if value]
        return ", ".join(dict.fromkeys(words))

    def recorded(self, name: str) -> str:
        """What the finished runs say of themselves, as `device`: each different answer once."""
        return ", ".join(dict.fromkeys(str(run.record[name]) for run in self.measured if run.record.get(name)))


def rows(results: Sequence[Result]) -> list[Row]:
    """One row for each training entry and split that is expected, measured or reported, in the order of `results`.

    Results of smoke runs make rows of the split "smoke".
    """
    groups: dict[tuple[str, bool], dict[int, Result]] = {}
    for result in results:
        if result.entry.kind == "training":
            seeds = groups.setdefault((result.entry.id, is_short(result)), {})
            # An entry whose full run is a smoke run may come with both; they are the same experiment.
            if result.seed not in seeds or seeds[result.seed].state != "finished":
                seeds[result.seed] = result
    found = [(list(seeds.values()), short) for (_, short), seeds in groups.items()]
    return [_row(runs, split, short) for runs, short in found for split in _splits(runs, short)]


def _splits(runs: Sequence[Result], short: bool) -> list[str]:
    entry = runs[0].entry
    expected = ["smoke"] if short else list(entry.splits)
    reported = [r.split for r in entry.reported if (r.split == "smoke") == short]
    measured = [split for run in runs if run.state == "finished" for split in run.metrics]
    return list(dict.fromkeys([*expected, *measured, *reported]))


def _row(runs: Sequence[Result], split: str, short: bool) -> Row:
    entry = runs[0].entry
    ours = [_metrics(run, split) for run in runs]
    theirs = [r.metrics for r in entry.reported if r.split == split and (split == "smoke") == short]
    return Row(entry=entry, split=split, runs=tuple(runs), metrics=_summaries(ours), reported=_summaries(theirs))


def _metrics(run: Result, split: str) -> Mapping[str, float]:
    return run.metrics.get(split, {}) if run.state == "finished" else {}


def _summaries(runs: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    names = dict.fromkeys(name for metrics in runs for name in metrics)
    found = {name: summarize(metrics.get(name) for metrics in runs) for name in names}
    return {name: summary for name, summary in found.items() if summary is not None}


def metric_names(table: Sequence[Row]) -> list[str]:
    """Every metric that a row has or that was reported, in the order of their first place."""
    return list(dict.fromkeys(name for row in table for source in (row.metrics, row.reported) for name in source))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An entry minus one of its baselines, on a split and seed by seed: our runs and the reported ones."""

    entry: Entry
    baseline: Entry
    split: str
    ours: PairedDifference | None
    reported: PairedDifference | None


def comparisons(study: Study, table: Sequence[Row], metric: str = MAIN_METRIC) -> list[Comparison]:
    """Each entry against its baselines, where our runs or the reported ones share a seed."""
    by_place = {(row.entry.id, row.split): row for row in table}
    found = []
    for row in table:
        for name in row.entry.baselines:
            other = by_place.get((name, row.split))
            if other is None:
                continue
            ours = paired_difference(by_seed(row, metric), by_seed(other, metric))
            theirs = paired_difference(_reported_by_seed(row, metric), _reported_by_seed(other, metric))
            if ours or theirs:
                found.append(
                    Comparison(entry=row.entry, baseline=study.entry(name), split=row.split, ours=ours, reported=theirs)
                )
    return found


def by_seed(row: Row, metric: str = MAIN_METRIC) -> dict[int, float]:
    """A metric of a row's finished runs by their seeds."""
    return {run.seed: run.metrics[row.split][metric] for run in row.measured if metric in run.metrics[row.split]}


def _reported_by_seed(row: Row, metric: str) -> dict[int, float]:
    return {
        r.seed: r.metrics[metric]
        for r in row.entry.reported
        if r.split == row.split and r.seed is not None and metric in r.metrics
    }


def to_tsv(study: Study, table: Sequence[Row]) -> str:
    """The rows with full precision, tab-separated with a header line; what is unknown is an empty field.

    Columns of a metric or cost NAME are `NAME:mean`, `NAME:std`, `NAME:n`, and of a metric also `NAME:reported`,
    `NAME:reported_std` and `NAME:reported_n`. Metrics are fractions, parameters are counted in ones, memory in MiB.
    """
    file = io.StringIO()
    metrics = metric_names(table)
    columns: dict[str, Callable[[Row], object]] = {"study": lambda _: study.name, **_COLUMNS}
    names = [
        *columns,
        *(f"{kind}_{part}" for kind in ("trainable", "total") for part in PARTS),
        *(f"{cost}:{part}" for cost in (*COSTS, *INFERENCE) for part in _PARTS_OF_SUMMARY),
        *(f"{name}:{part}" for name in metrics for part in (*_PARTS_OF_SUMMARY, *_PARTS_OF_REPORTED)),
    ]
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(map(_cell, names))
    for row in table:
        writer.writerow(
            map(
                _cell,
                [
                    *(column(row) for column in columns.values()),
                    *(row.parameters(part, kind) for kind in ("trainable", "total") for part in PARTS),
                    *(value for cost in (*COSTS, *INFERENCE) for value in _values(row.cost(cost))),
                    *(v for name in metrics for s in (row.metrics, row.reported) for v in _values(s.get(name))),
                ],
            )
        )
    return file.getvalue()


def _cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula: texts that begin like one get an apostrophe before them."""
    if not isinstance(value, str) or not value.lstrip("\t\r\n ").startswith(("=", "+", "-", "@")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


_PARTS_OF_SUMMARY = ("mean", "std", "n")
_PARTS_OF_REPORTED = ("reported", "reported_std", "reported_n")
_COLUMNS: dict[str, Callable[[Row], object]] = {
    "id": lambda row: row.entry.id,
    "title": lambda row: row.entry.title,
    "split": lambda row: row.split,
    "data": lambda row: row.data,
    "runs_measured": lambda row: len(row.measured),
    "runs_expected": lambda row: len(row.runs),
    "runs": lambda row: row.states,
    "model": lambda row: row.entry.model,
    "weights": lambda row: row.entry.weights,
    "method": lambda row: row.entry.method,
    "targets": lambda row: row.entry.targets,
    "rank": lambda row: row.entry.rank,
    "alpha": lambda row: row.entry.alpha,
    "device": lambda row: row.recorded("device"),
}


def _values(summary: Summary | None) -> tuple:
    return (None, None, 0) if summary is None else (summary.mean, summary.std, summary.n)
