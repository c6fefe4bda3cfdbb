"""The report of a study: tables and plots of its runs as TSV, JSON, Markdown and one HTML file."""

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from loradet.evaluation.cells import NOTHING, millions_cell
from loradet.experiments.pages.answer import answer_section, main_split
from loradet.experiments.pages.broken import set_aside_broken
from loradet.experiments.pages.calibration import CALIBRATION, calibration_section
from loradet.experiments.pages.comparison import comparison_section
from loradet.experiments.pages.cost import cost_section
from loradet.experiments.pages.document import Document, Section, Table, to_markdown
from loradet.experiments.pages.factor_report import factor_report
from loradet.experiments.pages.figures import Plot, drawing_style
from loradet.experiments.pages.html import to_html
from loradet.experiments.pages.plots import (
    CLASS_PREFIX,
    ap_against_memory,
    ap_against_parameters,
    ap_against_speed,
    ap_by_rank,
    class_ap,
    curve_plot,
)
from loradet.experiments.pages.shown import MOST, left_out, say_so, shown
from loradet.experiments.results.consistency import check_results, is_short
from loradet.experiments.results.curves import AP, LOSS, RunLog, curves, read_logs
from loradet.experiments.results.folders import Result
from loradet.experiments.results.intervals import METRICS, Intervals
from loradet.experiments.results.results_file import study_to_dict
from loradet.experiments.results.seed_statistics import summary_cell
from loradet.experiments.results.split_files import predictions_file
from loradet.experiments.results.table import Row, comparisons, metric_names, rows, to_tsv
from loradet.experiments.study.definition import REPORTED_COSTS, Study
from loradet.files import atomic_open

_BOX = "coco/bbox_"
_CLASS_RECALL = f"{_BOX}AR@100/"
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
    """Write `report.tsv`, `results.json`, `report.md`, `report.html`, `plots/*.png` and `pictures/*.jpg` into a folder.

    A study of factors has `factors.json` and `next_run.py` besides (see `factor_report`). Everything is read, checked
    and drawn before the first file is written.

    Args:
        results: one for each expected run, missing ones too, in the order of the study's entries.
        output: the folder; made where there is none.
        title: of the page; by default the study's.
        intervals: of AP over images, from `bootstrap_runs`.

    Returns:
        The files written.

    A run whose files cannot be read is a row of the state "broken", with the reason.

    Raises:
        ValueError: the runs do not belong into one table (see `check_results`).
    """
    found: dict[Path, RunLog] = {}
    results = set_aside_broken(results, found)
    check_results(results)
    table = rows(results)
    logs = read_logs(results, found)
    with drawing_style():
        factors = factor_report(study, results)
        document = _document(study, results, table, logs, title or study.title, intervals, factors.sections)
    plots = [plot for section in document.sections for plot in section.plots]
    pictures = [one for section in document.sections for strip in section.strips for one in strip.pictures]
    contents: dict[Path, bytes] = {
        output / "report.tsv": to_tsv(study, table).encode(),
        output / "results.json": json.dumps(study_to_dict(study, results, table, intervals), indent=2).encode(),
        output / "report.md": to_markdown(document).encode(),
        output / "report.html": to_html(document).encode(),
        **{output / "plots" / f"{plot.name}.png": plot.png for plot in plots},
        **{output / "pictures" / f"{picture.name}.jpg": picture.jpg for picture in pictures},
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
    answered = main_split(table)
    sections = [answer_section(table, intervals)]
    sections += [
        _split_section([row for row in table if row.split == split], split, table, is_answered=split == answered)
        for split in splits
    ]
    if answered is not None:
        sections.append(_strips([row for row in shown(table) if row.split == answered], answered))
    sections += [
        *factors,
        comparison_section(comparisons(study, full or table)),
        _interval_section(table, intervals),
        *(calibration_section([row for row in table if row.split == split], split) for split in splits),
        cost_section(table),
        _curve_section(logs, table),
        _run_section(results),
    ]
    first, *others = sections
    filled = [section for section in others if section.tables or section.plots or section.strips]
    return Document(title, [], [first, Section("About the runs", _introduction(study, results, table)), *filled])


def _strips(rows: Sequence[Row], split: str) -> Section:
    """Painted images; without any detections at hand what paints is not even imported."""
    if not any(predictions_file(row.measured[0], split) for row in rows if row.measured):
        return Section("")
    from loradet.experiments.pages.strips import strip_section

    return strip_section(rows, split)


def _introduction(study: Study, results: Sequence[Result], table: Sequence[Row]) -> list[str]:
    finished = [result for result in results if result.state == "finished"]
    missing = len(results) - len(finished)
    texts = [
        f"{len(finished)} of {len(results)} runs are finished"
        + (f"; those without numbers ({missing}) are listed with their state under «Runs»." if missing else "."),
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


def _split_section(here: Sequence[Row], split: str, table: Sequence[Row], *, is_answered: bool) -> Section:
    names = [name for name in metric_names(here) if name not in REPORTED_COSTS and not name.startswith(CALIBRATION)]
    classes = [name for name in names if name.startswith(CLASS_PREFIX)]
    class_recall = [name for name in names if name.startswith(_CLASS_RECALL)]
    recall = [name for name in names if name.startswith(f"{_BOX}AR") and name not in class_recall]
    precision = [name for name in names if name.startswith(f"{_BOX}mAP") and name not in classes]
    others = [name for name in names if name not in (*classes, *class_recall, *recall, *precision)]
    tables = [_metric_table(here, precision, runs=True)]
    tables += [_metric_table(here, group, runs=False) for group in (recall, classes, class_recall, others) if group]
    return Section(f"Results on {split}", tables=tables, plots=_split_plots(table, split, is_answered))


def _split_plots(table: Sequence[Row], split: str, is_answered: bool) -> list[Plot]:
    """Smoke runs are drawn where there is nothing else; what the answer shows is not drawn twice."""
    if split == "smoke" and any(row.measured for row in table if row.split != "smoke"):
        return []
    kinds = (ap_against_parameters, ap_against_speed, ap_against_memory, ap_by_rank, class_ap)
    rows = shown(table)
    drawn = (say_so(draw(rows, split), table, split) for draw in kinds[is_answered:])
    return [plot for plot in drawn if plot is not None]


_Column = tuple[str, Callable[[Row], str]]


def _metric_table(here: Sequence[Row], names: Sequence[str], *, runs: bool) -> Table:
    """A row for each experiment; beside our column of a metric the reported one, where there is any."""
    about: list[_Column] = []
    if any(row.data for row in here):
        about.append(("data", lambda row: row.data or NOTHING))
    if runs:
        about += [
            ("trainable (M)", lambda row: millions_cell(row.parameters("all"))),
            ("runs", lambda row: row.states),
        ]
    numbers = [_metric_columns(here, name) for name in names]
    # On a narrow screen the first number is in sight.
    columns = [*_NAMES, *(numbers[0] if numbers else ()), *about, *(one for more in numbers[1:] for one in more)]
    headers = [header for header, _ in columns]
    best = {(y, headers.index(_label(name))) for name in names for y in _best(here, name)}
    return Table(headers, [[cell(row) for _, cell in columns] for row in here], frozenset(best))


def _best(here: Sequence[Row], name: str) -> list[int]:
    """Places of the rows with the greatest AP or AR of several; of other metrics less may be better."""
    means = {place: row.metrics[name].mean for place, row in enumerate(here) if name in row.metrics}
    if len(means) < 2 or not name.startswith(_BOX):
        return []
    return [place for place, mean in means.items() if mean == max(means.values())]


def _metric_columns(here: Sequence[Row], name: str) -> list[_Column]:
    columns: list[_Column] = [(_label(name), lambda row: row.state or summary_cell(row.metrics.get(name)))]
    if any(name in row.reported for row in here):
        columns.append((f"{_label(name)} reported", lambda row: summary_cell(row.reported.get(name))))
    return columns


_NAMES: tuple[_Column, ...] = (("id", lambda row: row.entry.id), ("experiment", lambda row: row.entry.title))


def _label(name: str) -> str:
    """Short names in the table: `AP50` for `coco/bbox_mAP_50`, the class for `coco/bbox_mAP/<class>`."""
    if name.startswith(CLASS_PREFIX):
        return name.removeprefix(CLASS_PREFIX)
    return name.removeprefix(_BOX).replace("mAP_", "AP").replace("mAP", "AP")


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


def _curve_section(logs: Sequence[RunLog], table: Sequence[Row]) -> Section:
    short = all(is_short(log.result) for log in logs)
    chosen = [log for log in logs if is_short(log.result) == short]
    count = len({log.result.entry.id for log in chosen})
    note = []
    if count > MOST:
        split = "smoke" if short else main_split(table)
        kept = {row.entry.id for row in shown(table) if row.split == split}
        chosen = [log for log in chosen if log.result.entry.id in kept]
        note = [left_out(count)]
    images = " (synthetic images)" if any(log.result.synthetic for log in chosen) else ""
    drawn = [
        curve_plot(curves(chosen, LOSS), "curves_loss", f"training loss{images}", wide=True),
        curve_plot(curves(chosen, AP, 0.01), "curves_ap", f"AP at the periodic evaluations{images}"),
    ]
    return Section("Training (smoke runs)" if short else "Training", note, plots=[p for p in drawn if p])


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
