"""The report of `loradet benchmark gpu`: one JSON, one table."""

import os
from datetime import datetime, timezone
from typing import Any

from tabulate import tabulate

from loradet.benchmarks.gpu.runner import Report
from loradet.files import write_json

# Figures with a column of their own; others are named in the last one.
COLUMNS = ("images/s", "seconds", "peak MiB", "TFLOP/s", "of limit", "ratio", "to", "backbone")
LIMIT_CASE = "matmul bf16"


def write_report(path: str | os.PathLike, report: Report, options: dict[str, Any]) -> None:
    """The results so far, whole or not at all.

    Args:
        path: of the JSON.
        report: as of `run_sections`.
        options: what was asked for.
    """
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(path, {"written_at": now, "options": options, "sections": with_limit(report)})


def with_limit(report: Report) -> Report:
    """The same with `of limit`: the share of the matmul rate that was measured, wherever a row has `TFLOP/s`."""
    rates = [row["TFLOP/s"] for part in report for row in part["rows"] if row["case"] == LIMIT_CASE]
    if not rates:
        return report

    def row_with(row: dict[str, Any]) -> dict[str, Any]:
        return row if row.get("TFLOP/s") is None else {**row, "of limit": row["TFLOP/s"] / rates[0]}

    return [{**part, "rows": [row_with(row) for row in part["rows"]]} for part in report]


def table(report: Report) -> str:
    """For people."""
    rows = []
    for part in with_limit(report):
        rows += [
            [part["section"], row["case"], *(_shown(row.get(c)) for c in COLUMNS), _rest(row)] for row in part["rows"]
        ]
        if part["status"] != "done":
            rows.append([part["section"], part["status"], *[""] * len(COLUMNS), part.get("error", "")])
    return tabulate(rows, headers=("section", "case", *COLUMNS, "besides"), disable_numparse=True)


def _rest(row: dict[str, Any]) -> str:
    others = [(name, value) for name, value in row.items() if name not in (*COLUMNS, "case", "note")]
    words = [f"{name} {_shown(value)}" for name, value in others if value is not None]
    return "; ".join([*words, row["note"]] if row.get("note") else words)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
