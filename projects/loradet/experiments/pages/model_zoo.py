"""The record of a study's runs: what has been trained, how good it is, and its files with their sums."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from timm.models import get_pretrained_cfg

from loradet.evaluation.cells import NOTHING, millions_cell
from loradet.experiments.pages.document import Table, markdown_table, plain_text
from loradet.experiments.results.consistency import check_results, read_config
from loradet.experiments.results.folders import Result
from loradet.experiments.results.seed_statistics import summary_cell
from loradet.experiments.results.table import Row, rows
from loradet.experiments.study.definition import MAIN_METRIC, Study
from loradet.files import sha256
from loradet.run_folder import RunFolder

ADAPTER = RunFolder.ADAPTER


def model_zoo(study: Study, results: Sequence[Result], root: str = "..") -> str:
    """A Markdown page on the study's finished full trainings; every number is read from the runs.

    Args:
        results: one for each expected run; those of smoke runs are passed over.
        root: the way from the page's folder to the project's root, for the links to configs.

    Raises:
        ValueError: the runs do not belong into one table (see `check_results`).
    """
    full = [r for r in results if r.mode == "full" and r.entry.kind == "training" and not r.entry.smoke_only]
    check_results(full)
    table = [row for row in rows(full) if row.measured]
    trained = list(dict.fromkeys(row.entry.id for row in table))
    untrained = [name for name in dict.fromkeys(result.entry.id for result in full) if name not in trained]
    parts = [f"# Record of runs: {plain_text(study.title)}"]
    if table:
        parts += [_PREFACE, _entry_table(table, trained, root), _FILES, _file_table(full)]
    if untrained:
        parts.append(f"Not trained yet: {', '.join(map(plain_text, untrained))}.")
    return "\n\n".join(parts) + "\n"


_PREFACE = (
    "A record of the study's finished runs, made from their folders by `loradet study zoo`. AP is COCO's, a fraction "
    "of 1, of `model_best.pth`: mean ± sample standard deviation over the seeds, their number in brackets. Rows marked "
    "synthetic were trained and measured on synthetic images. The licence is the one of the weights that training "
    "started from."
)
_FILES = (
    "One file for each run: what was trained, without the base weights. The date is that of its `run.json`, in UTC; "
    "the sums are the first 12 digits of sha256."
)


def _entry_table(table: Sequence[Row], trained: Sequence[str], root: str) -> str:
    splits = list(dict.fromkeys(row.split for row in table))
    headers = ["experiment", "weights", "licence", "data", "trainable (M)", *(f"AP ({split})" for split in splits)]
    body = []
    for name in trained:
        mine = {row.split: row for row in table if row.entry.id == name}
        first = next(iter(mine.values()))
        entry = first.entry
        body.append(
            [
                f"[{plain_text(entry.id)}]({PurePath(root, entry.config).as_posix()}) {plain_text(entry.title)}",
                plain_text(entry.weights) or NOTHING,
                plain_text(licences(read_config(first.measured[0]))),
                first.data or NOTHING,
                millions_cell(first.parameters("all")),
                *(_ap(mine.get(split)) for split in splits),
            ]
        )
    return markdown_table(Table(headers, body), escape=False)


def _ap(row: Row | None) -> str:
    return summary_cell(row and row.metrics.get(MAIN_METRIC))


def _file_table(results: Sequence[Result]) -> str:
    body = []
    for result in results:
        if result.state != "finished":
            continue
        adapter = result.folder / ADAPTER
        size = digest = NOTHING
        if adapter.is_file():
            size, digest = f"{adapter.stat().st_size / 1e6:.2f}", sha256(adapter)[:12]
        cells = [result.entry.id, str(result.seed), f"{result.folder.name}/{ADAPTER}", size, digest]
        known = [str(result.record.get(key) or NOTHING) for key in ("device", "finished_at")]
        body.append([*cells, known[0], known[1].partition("T")[0]])
    return markdown_table(Table(["id", "seed", "file", "MB", "sha256", "device", "date"], body))


def licences(config: dict[str, Any]) -> str:
    """Licences of the weights that a resolved config starts from, as far as they are known.

    Those of timm's published weights are what timm records.
    """
    found = [_licence(node) for node in _backbones(config.get("model"))]
    if start := config.get("train", {}).get("init_checkpoint"):
        found.append(_licence_of_file(start))
    return ", ".join(dict.fromkeys(found)) or "unknown"


def _licence(node: dict[str, Any]) -> str:
    weights = node.get("weights")
    if node.get("pretrained"):
        known = get_pretrained_cfg(node["model_name"])
        return (known and known.license) or "unknown"
    return _licence_of_file(weights) if weights else "none (random weights)"


def _licence_of_file(path: str) -> str:
    return "Apache-2.0 (ships with loradet)" if str(path).startswith("asset://") else f"that of {PurePath(path).name}"


def _backbones(node: Any) -> Iterator[dict[str, Any]]:
    """Every call in a config that builds a network by its model name."""
    if isinstance(node, dict):
        if "_target_" in node and "model_name" in node:
            yield node
        for value in node.values():
            yield from _backbones(value)
    elif isinstance(node, list):
        for value in node:
            yield from _backbones(value)
