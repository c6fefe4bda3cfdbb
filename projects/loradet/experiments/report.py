"""The report of a study: tables and plots of its runs as TSV, JSON, Markdown and one HTML file."""

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from loradet.evaluation.cells import NOTHING, millions_cell
from loradet.experiments.calibration_section import CALIBRATION, calibration_section
from loradet.experiments.consistency import check_results, is_short
from loradet.experiments.cost_section import cost_section
from loradet.experiments.curves import AP, LOSS, RunLog, curves, read_logs
from loradet.experiments.document import Document, Section, Table, to_markdown
from loradet.experiments.factor_report import factor_report
from loradet.experiments.figures import Plot, drawing_style
from loradet.experiments.intervals import METRICS, Intervals
from loradet.experiments.plots import (
    CLASS_PREFIX,
    ap_against_memory,
    ap_against_parameters,
    ap_against_speed,
    ap_by_rank,
    class_ap,
    curve_plot,
)
from loradet.experiments.report_html import to_html
from loradet.experiments.results import Result
from loradet.experiments.results_file import plain_study
from loradet.experiments.seed_statistics import PairedDifference, summary_cell
from loradet.experiments.study import REPORTED_COSTS, Study
from loradet.experiments.table import Comparison, Row, comparisons, metric_names, rows, to_tsv
from loradet.files import atomic_open

_BOX = "coco/bbox_"
_CLASS_RECALL = f"{_BOX}AR@100/"
_FEW_SEEDS = (
    "Differences are taken seed by seed, with Student's 95 % interval of their mean. Three seeds are few: with n = 3 "
    "the interval reaches 2.5 sample standard deviations to each side, so only large differences show, and one that "
    "holds 0 does not say that two methods are equal. With one shared seed there is no interval."
)


_OVER_IMAGES = (
    "Percentile bootstrap: the images of the split are drawn with replacement, the detections stay. It tells of the "
    "choice of images, not of the training's seed; overlapping intervals do not say that two methods are equal. "
    "Repeated images raise AP a little, so that the interval may lie above the AP itself where classes have few boxes."
)


def write_report(
    study: Study,
    results: Sequence[Result],
    output: Path,
    *,
    title: str | None = None,
    intervals: Intervals | None = None,
) -> list[Path]:
    """Write `report.tsv`, `results.json`, `report.md`, `report.html` and `plots/*.png` into a folder.

    A study of factors has `factors.json` and `next_run.py` besides (see `factor_report`). Everything is read, checked
    and drawn before the first file is written.

    Args:
        results: one for each expected run, missing ones too, in the order of the study's entries.
        output: the folder; made where there is none.
        title: of the page; by default the study's.
        intervals: of AP over images, from `bootstrap_runs`.

    Returns:
        The files written.

    Raises:
        ValueError: the runs do not belong into one table (see `check_results`), or a metrics file is cut.
    """
    check_results(results)
    table = rows(results)
    logs = read_logs(results)
    with drawing_style():
        factors = factor_report(study, results)
        document = _document(study, results, table, logs, title or study.title, intervals, factors.sections)
    plots = [plot for section in document.sections for plot in section.plots]
    contents: dict[Path, bytes] = {
        output / "report.tsv": to_tsv(study, table).encode(),
        output / "results.json": json.dumps(plain_study(study, results, table, intervals), indent=2).encode(),
        output / "report.md": to_markdown(document).encode(),
        output / "report.html": to_html(document).encode(),
        **{output / "plots" / f"{plot.name}.png": plot.png for plot in plots},
        **{output / name: text.encode() for name, text in factors.files.items()},
    }
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(path, "wb") as file:
            file.write(content)
    return list(contents)


def _document(
    study: Study,
    results: Sequence[Result],
    table: Sequence[Row],
    logs: Sequence[RunLog],
    title: str,
    intervals: Intervals | None,
    factors: Sequence[Section],
) -> Document:
    splits = list(dict.fromkeys(row.split for row in table))
    full = [row for row in table if row.split != "smoke"]
    sections = [_split_section([row for row in table if row.split == split], split, table) for split in splits]
    sections += [
        *factors,
        _comparison_section(comparisons(study, full or table)),
        _interval_section(table, intervals),
        *(calibration_section([row for row in table if row.split == split], split) for split in splits),
        cost_section(table),
        _curve_section(logs),
        _run_section(results),
    ]
    return Document(title, _introduction(study, results, table), [s for s in sections if s.tables or s.plots])


def _introduction(study: Study, results: Sequence[Result], table: Sequence[Row]) -> list[str]:
    finished = [result for result in results if result.state == "finished"]
    missing = len(results) - len(finished)
    texts = [
        f"{len(finished)} of {len(results)} runs are finished"
        + (f"; the {missing} others are listed with their state under «Runs»." if missing else "."),
        "Metrics are fractions of 1: mean ± sample standard deviation over the seeds, their number in brackets; "
        f"{NOTHING} where there is no number.",
    ]
    if any(row.reported for row in table):
        texts.append(f"Reported: {study.source or 'the source is not named by the study'}.")
    short = [result for result in results if is_short(result)]
    if any(row.data for row in table):
        compared = "" if len(short) == len(results) else " and how the methods compare there"
        texts.append(
            "The runs marked «synthetic» were trained and measured on synthetic images. They show that the "
            f"experiments run{compared}; they are not to be held against numbers on real images."
        )
    if short:
        stand_in = study.stand_in_overrides if any(one.synthetic for one in short) else ()
        changed = ", ".join((*study.smoke.overrides, *stand_in))
        texts.append(
            f"Smoke runs had {study.smoke.train_images} training and {study.smoke.val_images} validation images and "
            f"{study.smoke.epochs:g} epoch{'s' * (study.smoke.epochs != 1)}; their numbers say nothing of the methods."
            f"{f' They differ from their entries by: {changed}.' if changed else ''}"
        )
    return texts


def _split_section(here: Sequence[Row], split: str, table: Sequence[Row]) -> Section:
    names = [name for name in metric_names(here) if name not in REPORTED_COSTS and not name.startswith(CALIBRATION)]
    classes = [name for name in names if name.startswith(CLASS_PREFIX)]
    class_recall = [name for name in names if name.startswith(_CLASS_RECALL)]
    recall = [name for name in names if name.startswith(f"{_BOX}AR") and name not in class_recall]
    precision = [name for name in names if name.startswith(f"{_BOX}mAP") and name not in classes]
    others = [name for name in names if name not in (*classes, *class_recall, *recall, *precision)]
    tables = [_metric_table(here, precision, runs=True)]
    tables += [_metric_table(here, group, runs=False) for group in (recall, classes, class_recall, others) if group]
    return Section(f"Results on {split}", tables=tables, plots=_split_plots(table, split))


def _split_plots(table: Sequence[Row], split: str) -> list[Plot]:
    """Smoke runs are drawn where there is nothing else."""
    if split == "smoke" and any(row.measured for row in table if row.split != "smoke"):
        return []
    kinds = (ap_against_parameters, ap_against_speed, ap_against_memory, ap_by_rank, class_ap)
    drawn = (draw(table, split) for draw in kinds)
    return [plot for plot in drawn if plot is not None]


def _metric_table(here: Sequence[Row], names: Sequence[str], *, runs: bool) -> Table:
    """A row for each experiment; beside our column of a metric the reported one, where there is any."""
    columns: list[tuple[str, Callable[[Row], str]]] = [*_NAMES]
    if any(row.data for row in here):
        columns.append(("data", lambda row: row.data or NOTHING))
    if runs:
        columns += [
            ("trainable (M)", lambda row: millions_cell(row.parameters("all"))),
            ("runs", lambda row: row.states),
        ]
    for name in names:
        columns.append((_label(name), lambda row, name=name: row.state or summary_cell(row.metrics.get(name))))
        if any(name in row.reported for row in here):
            columns.append((f"{_label(name)} reported", lambda row, name=name: summary_cell(row.reported.get(name))))
    return Table([header for header, _ in columns], [[cell(row) for _, cell in columns] for row in here])


_NAMES = (("id", lambda row: row.entry.id), ("experiment", lambda row: row.entry.title))


def _label(name: str) -> str:
    """Short names in the table: `AP50` for `coco/bbox_mAP_50`, the class for `coco/bbox_mAP/<class>`."""
    if name.startswith(CLASS_PREFIX):
        return name.removeprefix(CLASS_PREFIX)
    return name.removeprefix(_BOX).replace("mAP_", "AP").replace("mAP", "AP")


def _comparison_section(compared: Sequence[Comparison]) -> Section:
    if not compared:
        return Section("")
    has_reported = any(one.reported for one in compared)
    headers = ["id", "experiment", "minus", "split", "AP difference", "95 % interval", "seeds"]
    headers += ["AP difference reported", "95 % interval reported"] if has_reported else []
    body = []
    for one in compared:
        cells = [one.entry.id, one.entry.title, one.baseline.id, one.split, *_difference(one.ours)]
        cells.append(", ".join(map(str, one.ours.seeds)) if one.ours else NOTHING)
        body.append(cells + (_difference(one.reported) if has_reported else []))
    return Section("Differences from the baselines", [_FEW_SEEDS], [Table(headers, body)])


def _difference(found: PairedDifference | None) -> list[str]:
    if found is None:
        return [NOTHING, NOTHING]
    interval = NOTHING if found.low is None else f"{found.low:+.3f} to {found.high:+.3f}"
    return [f"{found.mean:+.3f}", interval]


def _interval_section(table: Sequence[Row], intervals: Intervals | None) -> Section:
    """A row for each run and split whose images were drawn anew."""
    if not intervals:
        return Section("")
    headers = ["id", "experiment", "split", "seed", "images drawn again"]
    headers += [word for name in METRICS for word in (_label(_BOX + name), f"{_label(_BOX + name)} 95 % interval")]
    body = []
    for row in table:
        for run in row.measured:
            found = intervals.get((run.folder, row.split)) or {}
            cells = [row.entry.id, row.entry.title, row.split, str(run.seed)]
            cells.append(f"{max(one.resamples for one in found.values())} times" if found else NOTHING)
            for name in METRICS:
                one = found.get(name)
                known = one is not None and not math.isnan(one.low)
                cells += [f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}"] if known else [NOTHING, NOTHING]
            body.append(cells)
    return Section("Intervals over the images", [_OVER_IMAGES], [Table(headers, body)])


def _curve_section(logs: Sequence[RunLog]) -> Section:
    short = all(is_short(log.result) for log in logs)
    chosen = [log for log in logs if is_short(log.result) == short]
    images = " (synthetic images)" if any(log.result.synthetic for log in chosen) else ""
    drawn = [
        curve_plot(curves(chosen, LOSS), "curves_loss", f"training loss{images}", wide=True),
        curve_plot(curves(chosen, AP, 0.01), "curves_ap", f"AP at the periodic evaluations{images}"),
    ]
    return Section("Training (smoke runs)" if short else "Training", plots=[p for p in drawn if p])


def _run_section(results: Sequence[Result]) -> Section:
    headers = ["id", "mode", "seed", "state", "detail", "data", "folder", "code", "device"]
    body = [
        [
            result.entry.id,
            result.mode,
            str(result.seed),
            result.state,
            textwrap.shorten(result.detail, 160, placeholder=" …") or NOTHING,
            "synthetic" if result.synthetic else NOTHING,
            result.folder.name,
            _revision(result.record.get("git_revision")),
            str(result.record.get("device") or NOTHING),
        ]
        for result in results
    ]
    return Section("Runs", tables=[Table(headers, body)] if body else [])


def _revision(revision: str | None) -> str:
    if not revision:
        return NOTHING
    commit, plus, changes = revision.partition("+")
    return commit[:10] + plus + changes
