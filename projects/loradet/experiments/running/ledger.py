"""Texts about a study: lists of entries and runs, one entry in full, the whole ledger."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

from loradet.config.flattening import flatten
from loradet.evaluation.coco_metrics import PREFIX
from loradet.experiments.results.consistency import read_config
from loradet.experiments.results.folders import Result
from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.study.definition import MAIN_METRIC, Entry, Study
from loradet.run_folder import RunFolder

if TYPE_CHECKING:
    from loradet.adapters import ParameterTable

ABSENT = "—"
CONFIG_PARTS = ("model", "data", "dataloader", "optimizer", "lr_multiplier", "train")


def entry_table(study: Study) -> str:
    """The entries of a study in a few columns."""
    rows = [
        [e.id, e.kind, ", ".join(map(str, e.seeds)) if e.kind == "training" else "", ", ".join(e.baselines), e.title]
        for e in study.entries
    ]
    return tabulate(rows, headers=["id", "kind", "seeds", "compare with", "title"], disable_numparse=True)


def status_table(results: Sequence[Result]) -> str:
    """How far each run is."""
    rows = []
    for result in results:
        values = [f"{split} {_number(m.get(MAIN_METRIC))}" for split, m in result.metrics.items()]
        state = result.state + (" (synthetic)" if result.synthetic else "")
        rows.append([result.folder.name, state, ", ".join(values), result.detail])
    return tabulate(rows, headers=["run", "state", MAIN_METRIC, ""], disable_numparse=True)


def config_changes(config: DictConfig, baseline: DictConfig) -> list[str]:
    """Lines `key: baseline -> own` for every resolved key that differs."""
    own, other = _flatten(config), _flatten(baseline)
    lines = []
    for key in [*own, *(key for key in other if key not in own)]:
        if key != "train.output_dir" and own.get(key, ABSENT) != other.get(key, ABSENT):
            lines.append(f"{key}: {other.get(key, ABSENT)} -> {own.get(key, ABSENT)}")
    return lines


def _flatten(config: DictConfig) -> dict[str, Any]:
    """The parts of a config that make a run, resolved, as dotted key -> value."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    parts = {part: plain[part] for part in CONFIG_PARTS if part in plain}
    return flatten(parts, leaf=lambda value: getattr(value, "__qualname__", value))


def describe(study: Study, entry: Entry, *, num_gpus: int, root: str) -> str:
    """An entry in full: its fields, what its config changes, what trains, and how to run it."""
    from loradet.config import load_config

    rows = [[name, value] for name, value in ledger_fields(study, entry, [], num_gpus=num_gpus, root=root)]
    parts = [f"{entry.id}: {entry.title}", "", tabulate(rows, tablefmt="plain", maxcolwidths=[None, 100])]
    if entry.kind == "training":
        config = load_config(entry.config, list(entry.overrides))
        baseline = next((study.entry(b) for b in entry.baselines if study.entry(b).kind == "training"), None)
        if baseline is not None:
            lines = config_changes(config, load_config(baseline.config, list(baseline.overrides)))
            parts += ["", f"Config, {baseline.id} -> {entry.id}:", *(f"  {line}" for line in lines)]
        parts += ["", "Parameters:", str(count_parameters(config))]
    return "\n".join(parts)


def count_parameters(config: DictConfig) -> "ParameterTable":
    """The parameter table of a config's model, built without its pretrained weights."""
    from loradet.adapters import parameter_table
    from loradet.config.edits import without_weights
    from loradet.model import build_model

    return parameter_table(build_model(without_weights(config.model)))


def ledger(
    study: Study, results: Sequence[Result], *, ids: Sequence[str] = (), num_gpus: int, root: str = "work_dirs"
) -> str:
    """The study as Markdown, one table an entry, filled from its runs.

    Args:
        results: of the runs.
        ids: of the entries to tell of; none: all.
        num_gpus: of the second command of each entry.
        root: folder of the runs.
    """
    parts = [f"# {study.title}", ""]
    for entry in [entry for entry in study.entries if not ids or entry.id in ids]:
        own = [result for result in results if result.entry.id == entry.id]
        fields = ledger_fields(study, entry, own, num_gpus=num_gpus, root=root)
        parts += [f"## {entry.id}: {entry.title}", "", "| Field | Value |", "|---|---|"]
        parts += [f"| {name} | {_cell(value)} |" for name, value in fields]
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


def ledger_fields(
    study: Study, entry: Entry, results: Sequence[Result], *, num_gpus: int, root: str
) -> list[tuple[str, str]]:
    """Name and value of everything there is to say about an entry."""
    runs = plan(study, [entry.id], root=root)
    entry = runs[0].entry
    fields = [
        ("Objective", entry.objective),
        ("Baseline", ", ".join(f"{name} ({study.entry(name).title})" for name in entry.baselines)),
        ("Model", entry.model),
        ("Weights", entry.weights),
        ("Config", entry.config),
        ("Overrides", " ".join(entry.overrides)),
        ("Adaptation", _adaptation(entry)),
    ]
    if entry.kind == "training":
        files = [RunFolder(run.folder).split_metrics(split) for run in runs for split in run.splits]
        fields += [
            ("Seeds", ", ".join(map(str, entry.seeds))),
            ("Splits", ", ".join(entry.splits)),
            ("Metrics (must save)", f"{', '.join(entry.metrics)} in {', '.join(map(str, files))}"),
            ("Checks", "; ".join(f"{name} {dict(value)}" for name, value in entry.checks.items())),
            ("Reported", "; ".join(_reported(entry))),
            *([("Note", entry.note)] if entry.note else []),
        ]
    else:
        fields += [("Sources", ", ".join(entry.sources)), ("Images", str(entry.images))]
    full = [result for result in results if result.mode == "full"]
    if results:
        fields += [
            ("Memory", _spread(full, "peak_memory_mb", 1 / 1024, "GiB")),
            ("Time an epoch", _time_an_epoch(full)),
            ("Total time", _spread(full, "wall_time_s", 1 / 3600, "h")),
            ("Smoke", _states(results, "smoke")),
            ("Full", _states(results, "full")),
            ("Logs", ", ".join(str(log) for r in results if (log := RunFolder(r.folder).log).is_file())),
            ("Artifacts", ", ".join(_artifacts(results))),
            ("Results", "<br>".join(_numbers(results))),
        ]
    fields += [
        (f"{mode.capitalize()} command, {gpus} GPU{'s' if gpus > 1 else ''}", "\n".join(lines))
        for mode in ("smoke", "full")
        for gpus in dict.fromkeys((1, num_gpus))
        if (lines := _commands(study, runs, gpus, mode, root))
    ]
    return [(name, value) for name, value in fields if value]


def _commands(study: Study, full_runs: Sequence[Run], gpus: int, mode: str, root: str) -> list[str]:
    """What to type: the training tool itself; what needs other files made first goes through the experiments tool."""
    entry = full_runs[0].entry
    if entry.kind == "pictures":
        return [] if gpus > 1 else [_engine_command(study, entry, 1, mode, root)]
    if mode == "smoke" or entry.smoke_only:
        return [_engine_command(study, entry, gpus, mode, root)]
    launch = Launch(num_gpus=gpus)
    return [shlex.join(["python", *words]) for run in full_runs for words in run.commands(launch)]


def _engine_command(study: Study, entry: Entry, gpus: int, mode: str, root: str) -> str:
    words = ["python", "tools/experiments.py", "--study", study.path or study.name]
    words += [] if root == "work_dirs" else ["--work-dirs", root]
    words += ["run", entry.id, f"--{mode}"]
    return shlex.join([*words, *(["--num-gpus", str(gpus)] if gpus > 1 else [])])


def _adaptation(entry: Entry) -> str:
    words = [entry.method, entry.targets, f"rank {entry.rank}" if entry.rank else ""]
    return ", ".join([*filter(None, words), *([f"alpha {entry.alpha:g}"] if entry.alpha else [])])


def _reported(entry: Entry) -> list[str]:
    return [
        f"{r.split}{'' if r.seed is None else f' seed {r.seed}'}: "
        + ", ".join(f"{name} {value:.3f}" for name, value in r.metrics.items())
        for r in entry.reported
    ]


def _states(results: Sequence[Result], mode: str) -> str:
    own = [result for result in results if result.mode == mode]
    words = [f"{r.folder.name}: {r.state}{' (synthetic)' if r.synthetic else ''}" for r in own]
    return ("[x] " if own and all(r.state == "finished" for r in own) else "[ ] ") + ", ".join(words)


def _numbers(results: Sequence[Result]) -> list[str]:
    lines = []
    for result in results:
        for split, metrics in result.metrics.items():
            shown = [f"{name} {_number(v)}" for name, v in metrics.items() if "/" not in name.removeprefix(PREFIX)]
            source = " on synthetic images" if result.synthetic else ""
            lines.append(f"{result.folder.name}, {split}{source}: {', '.join(shown)}")
    return lines


def _artifacts(results: Sequence[Result]) -> list[str]:
    names = (RunFolder.BEST, RunFolder.ADAPTER, "val_metrics.json", "test_metrics.json", RunFolder.SMOKE_METRICS)
    return [str(r.folder / name) for r in results for name in names if (r.folder / name).is_file()]


def _spread(results: Sequence[Result], key: str, factor: float, unit: str) -> str:
    values = [r.record[key] * factor for r in results if r.state == "finished" and r.record.get(key)]
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:.2f} {unit}" if high - low < 0.005 else f"{low:.2f} to {high:.2f} {unit}"


def _time_an_epoch(results: Sequence[Result]) -> str:
    """Of its training steps; the images that are left out of training take no time."""
    seconds = []
    for result in results:
        iterations, speed = (result.record.get(key) for key in ("iterations_per_epoch", "images_per_s"))
        if result.state == "finished" and iterations and speed:
            batch = read_config(result).get("dataloader", {}).get("train", {}).get("total_batch_size")
            seconds += [iterations * batch / speed] if batch else []
    return f"{max(seconds) / 60:.1f} min" if seconds else ""


def _number(value: float | None) -> str:
    return ABSENT if value is None or value != value else f"{value:.3f}"
