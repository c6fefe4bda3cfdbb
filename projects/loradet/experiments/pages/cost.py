"""The report's tables of parameters, speed and memory."""

from collections.abc import Callable, Sequence

from loradet.evaluation.cells import NOTHING, millions_cell
from loradet.experiments.pages.document import Section, Table
from loradet.experiments.results.seed_statistics import Summary, summary_cell
from loradet.experiments.results.table import PARTS, Row
from loradet.experiments.study.definition import REPORTED_COSTS

_INFERENCE = (
    "Inference: best weights, one batch after the other straight from the evaluation's loader, on one process; «data» "
    "is waiting for that loader. On CUDA memory is what model and batch take, elsewhere the most that the whole "
    "process, training included, ever held. Memory of training on CUDA leaves evaluations out."
)


def cost_section(table: Sequence[Row]) -> Section:
    """One row for each experiment, full and smoke runs apart: costs belong to runs and not to splits."""
    places: dict[tuple[str, bool], list[Row]] = {}
    for row in table:
        places.setdefault((row.entry.id, row.split == "smoke"), []).append(row)
    shown = [_Costs(rows) for rows in places.values()]
    shown = [one for one in shown if one.row.measured or one.has_reported]
    if not shown:
        return Section("")
    measured = [one for one in shown if one.row.cost("inference_images_per_s")]
    tables = [_training_table(shown), *([_inference_table(measured)] if measured else [])]
    entries = {one.row.entry.id: one.row.entry for one in shown}.values()
    notes = [f"{entry.id}: {entry.note}" for entry in entries if entry.note]
    return Section("Parameters, speed and memory", [_INFERENCE] if measured else [], tables, notes=notes)


class _Costs:
    """An experiment's rows of full or of smoke runs; what its runs cost stands in each that is measured."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = rows
        self.row = next((row for row in rows if row.measured), rows[0])

    def reported(self, name: str) -> Summary | None:
        return next((row.reported[name] for row in self._rows if name in row.reported), None)

    @property
    def has_reported(self) -> bool:
        return any(self.reported(name) for name in REPORTED_COSTS)


_Column = tuple[str, Callable[[_Costs], str]]
_NAMES: tuple[_Column, ...] = (
    ("id", lambda one: one.row.entry.id),
    ("experiment", lambda one: one.row.entry.title),
    ("mode", lambda one: "smoke" if one.row.split == "smoke" else "full"),
    ("data", lambda one: one.row.data or NOTHING),
)


def _training_table(shown: Sequence[_Costs]) -> Table:
    columns: list[_Column] = [*_NAMES]

    def add(header: str, cell: Callable[[_Costs], str], reported: str = "", unit: str = "") -> None:
        columns.append((header, cell))
        if reported and any(one.reported(reported) for one in shown):
            columns.append((f"{unit or header} reported", lambda one: _plain(one.reported(reported))))

    for part in PARTS:
        cell = lambda one, part=part: millions_cell(one.row.parameters(part))  # noqa: E731
        add(f"trainable {part} (M)", cell, "parameters/trainable_millions" if part == "all" else "")
    add("total (M)", lambda one: millions_cell(one.row.parameters("all", "total")), "parameters/total_millions")
    add("training images/s", lambda one: summary_cell(one.row.cost("images_per_s"), 1), "cost/images_per_s")
    memory = lambda one: _scaled(one.row.cost("peak_memory_mb"), 1, 0)  # noqa: E731
    add("peak memory (MiB)", memory, "cost/peak_memory_gb", "peak memory (GB)")
    add("training time (s)", lambda one: _scaled(one.row.cost("train_seconds"), 1, 0), "cost/train_seconds")
    add("wall time (min)", lambda one: _scaled(one.row.cost("wall_time_s"), 1 / 60, 1))
    add("device", lambda one: one.row.recorded("device") or NOTHING)
    add("processes", lambda one: one.row.recorded("processes") or NOTHING)
    return _table(columns, shown)


def _inference_table(measured: Sequence[_Costs]) -> Table:
    shares = ("data", "forward", "postprocessing")
    columns: list[_Column] = [
        *_NAMES,
        ("inference images/s", lambda one: summary_cell(one.row.cost("inference_images_per_s"), 1)),
        *(
            (f"{part} (%)", lambda one, p=part: _scaled(one.row.cost(f"inference_{p}_share"), 100, 1))
            for part in shares
        ),
        ("inference memory (MiB)", lambda one: _scaled(one.row.cost("inference_peak_memory_mb"), 1, 0)),
        ("batch", lambda one: one.row.efficiency("batch")),
        ("image size (pixels)", _size),
        ("device", lambda one: one.row.efficiency("device")),
    ]
    return _table(columns, measured)


def _size(one: _Costs) -> str:
    smallest, largest = (one.row.efficiency(f"{name}_image") for name in ("smallest", "largest"))
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _table(columns: Sequence[_Column], shown: Sequence[_Costs]) -> Table:
    return Table([header for header, _ in columns], [[cell(one) for _, cell in columns] for one in shown])


def _plain(summary: Summary | None) -> str:
    return NOTHING if summary is None else f"{summary.mean:g}"


def _scaled(summary: Summary | None, factor: float, digits: int) -> str:
    return NOTHING if summary is None else f"{factor * summary.mean:.{digits}f}"
