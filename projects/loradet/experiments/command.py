"""What `loradet study` does once its arguments are parsed."""

import argparse
import json
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from tqdm import tqdm

from loradet.errors import UserError, is_user_error, one_line
from loradet.experiments.pages.broken import broken, inspect_or_broken, set_aside_broken
from loradet.experiments.results.folders import Result
from loradet.experiments.running.ledger import describe, entry_table, ledger, status_table
from loradet.experiments.running.planning import plan
from loradet.experiments.running.run import Launch, Run
from loradet.experiments.running.state import inspect, needs_overwrite
from loradet.experiments.study.catalogue import find_studies, load_study
from loradet.experiments.study.config_memo import ConfigMemo
from loradet.experiments.study.definition import Study
from loradet.files import atomic_open

if TYPE_CHECKING:
    from loradet.experiments.results.intervals import Intervals
    from loradet.experiments.running.runner import Executor

MODES = ("full", "smoke")


def run_command(arguments: argparse.Namespace) -> int:
    """Do what a command line asks for; returns the exit status.

    Raises:
        ValueError, OSError: a study, an entry or a run is not as it should be; it is named.
    """
    if arguments.command == "list" and arguments.study is None:
        print("\n\n".join(map(_listed, _all_studies())))
        return 0
    if arguments.command == "search":
        from loradet.experiments.search.command import run_search

        return run_search(arguments, _executor)
    arguments.memo = ConfigMemo(Path(arguments.work_dirs))
    try:
        return _run_command(arguments)
    finally:
        arguments.memo.save()


def _run_command(arguments: argparse.Namespace) -> int:
    study = _with_smoke_size(_find_study(arguments), arguments)
    if arguments.command == "list":
        print(_listed(study))
    elif arguments.command == "show":
        entry = study.entry(arguments.id)
        print(describe(study, entry, num_gpus=arguments.num_gpus, root=arguments.work_dirs))
    elif arguments.command == "run":
        return _run(study, arguments)
    elif arguments.command == "report":
        _report(study, arguments)
    else:
        _write(_text(study, arguments), arguments.output)
    return 0


def _listed(study: Study) -> str:
    return f"{study.name}: {study.title}\n{entry_table(study)}"


def _find_study(arguments: argparse.Namespace) -> Study:
    """The study that is named, or the only one that has all the ids that are named."""
    if arguments.study is not None:
        return load_study(arguments.study, arguments.memo)
    wanted = {arguments.id} if arguments.command == "show" else set(arguments.ids)
    fitting = [s for s in _all_studies() if wanted and wanted <= {entry.id for entry in s.entries}]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{', '.join(sorted(wanted))}: in {len(fitting)} studies." if wanted else "Which study?"
    raise UserError(f"{what} Name one by --study: {', '.join(str(file.parent) for file in find_studies())}.")


def _all_studies() -> list[Study]:
    """All that can be loaded; the others are named."""
    studies = []
    for path in find_studies():
        try:
            studies.append(load_study(path))
        except (ValueError, OSError) as error:
            print(f"Left out: {error}", file=sys.stderr)
    return studies


def _with_smoke_size(study: Study, arguments: argparse.Namespace) -> Study:
    sizes = {
        "train_images": getattr(arguments, "smoke_train_images", None),
        "val_images": getattr(arguments, "smoke_val_images", None),
        "epochs": getattr(arguments, "smoke_epochs", None),
    }
    given = {key: value for key, value in sizes.items() if value is not None}
    for key, value in given.items():
        if value <= 0:
            raise UserError(f"--smoke-{key.replace('_', '-')} {value}: expected more than 0.")
    return replace(study, smoke=replace(study.smoke, **given))


def _run(study: Study, arguments: argparse.Namespace) -> int:
    runs = _plan(study, arguments, arguments.mode, arguments.ids)
    if arguments.report and (arguments.dump_commands or arguments.dry_run):
        raise UserError("--report is for runs that are carried out, not for --dry-run or --dump-commands.")
    if arguments.output and not arguments.report:
        raise UserError("--output is the folder of --report.")
    if arguments.dump_commands:
        lines = [words for run in runs for words in (*run.data.commands, *run.commands(_launch(arguments)))]
        for line in dict.fromkeys(shlex.join(["python", *words]) for words in lines):
            print(line)
        return 0
    if arguments.dry_run:
        _print_plan(runs, overwrite=arguments.overwrite)
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    # A shell that starts a command in the background has it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    from loradet.experiments.running.runner import run_all

    arguments.memo.save()  # what runs for days may be killed
    results = run_all(runs, _executor(arguments))
    print(status_table(results))
    if arguments.report:
        _write_report(study, results, arguments.output or _report_folder(study, arguments))
    return 0 if all(result.state == "finished" for result in results) else 1


_TODO = {
    "finished": "nothing to do",
    "missing": "to run",
    "interrupted": "to go on with",
    "failed": "to try again",
    "incomplete": "to evaluate",
    "changed": "refused",
    "running": "to wait for",
    "waiting": "to paint when a source has finished",
}


def _print_plan(runs: Sequence[Run], *, overwrite: bool) -> None:
    for run in runs:
        result = inspect(run)
        what = _TODO[result.state]
        if needs_overwrite(result):
            what = "to start afresh" if overwrite else "refused (--overwrite starts afresh)"
        print(f"{run.name}: {what}" + (f" ({result.detail})" if result.detail else ""))


def _launch(arguments: argparse.Namespace) -> Launch:
    return Launch(
        num_gpus=arguments.num_gpus, max_batch_per_gpu=arguments.max_batch_per_gpu, overwrite=arguments.overwrite
    )


def _executor(arguments: argparse.Namespace) -> "Executor":
    from loradet.experiments.running.runner import LocalExecutor
    from loradet.experiments.running.slurm import SubmititExecutor

    if arguments.executor == "ray":
        return _ray_executor(arguments)
    of_ray = ("address", "gpus_per_run", "cpus_per_run", "node_wait")
    if given := [name for name in of_ray if getattr(arguments, name) is not None]:
        raise UserError(f"--{given[0].replace('_', '-')} is for --executor ray.")
    if arguments.executor == "local":
        if arguments.slurm:
            raise UserError("--slurm is for --executor slurm.")
        return LocalExecutor(_launch(arguments), jobs=arguments.jobs)
    clusters = {"slurm": "slurm", "slurm-local": "local", "slurm-debug": "debug"}
    parameters = {}
    for word in arguments.slurm:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--slurm {word}: expected KEY=VALUE.")
        parameters[key] = yaml.safe_load(value)
    folder = Path(arguments.work_dirs) / "slurm"
    cluster = clusters[arguments.executor]
    return SubmititExecutor(folder, _launch(arguments), cluster=cluster, jobs=arguments.jobs, parameters=parameters)


def _ray_executor(arguments: argparse.Namespace) -> "Executor":
    from loradet.experiments.running.ray_executor import RayExecutor

    if arguments.slurm:
        raise UserError("--slurm is for --executor slurm.")
    return RayExecutor(
        arguments.work_dirs,
        _launch(arguments),
        address=arguments.address,
        jobs=arguments.jobs,
        gpus_per_run=arguments.gpus_per_run,
        cpus_per_run=arguments.cpus_per_run,
        node_wait_s=arguments.node_wait,
    )


def _results(study: Study, arguments: argparse.Namespace, modes: Sequence[str]) -> list[Result]:
    """Results of all runs of some modes; smoke runs that are not there are passed over."""
    found = []
    for mode in modes:
        ids = arguments.ids
        if mode != modes[0]:
            begun = _begun(Path(arguments.work_dirs), mode)
            ids = [entry.id for entry in study.entries if entry.id in begun and (not ids or entry.id in ids)]
            if not ids:
                continue
        results = [inspect_or_broken(run) for run in _plan(study, arguments, mode, ids)]
        found += [r for r in results if mode == modes[0] or _has_begun(r)]
    return found


def _plan(study: Study, arguments: argparse.Namespace, mode: str, ids: Sequence[str]) -> list[Run]:
    root, memo = arguments.work_dirs, arguments.memo
    return plan(study, ids, mode=mode, seeds=arguments.seeds, root=root, memo=memo)


def _begun(root: Path, mode: str) -> set[str]:
    """Ids of the entries that have a folder of a mode there; what is not begun need not be planned to be left out."""
    pattern = re.compile(rf"(?P<id>[^@]+)(@.*)?_{mode}(_seed\d+)?")
    names = os.listdir(root) if root.is_dir() else []  # noqa: PTH208
    return {match["id"] for name in names if (match := pattern.fullmatch(name))}


def _report(study: Study, arguments: argparse.Namespace) -> None:
    modes = MODES if arguments.mode == "both" else (arguments.mode or "full",)
    results = _results(study, arguments, modes)
    if arguments.mode is None and not any(map(_has_begun, results)):
        short = _results(study, arguments, ("smoke",))
        if any(map(_has_begun, short)):
            print("No full run has begun: this is the report of the smoke runs, whose numbers say nothing.")
            results = short
    intervals = None
    if arguments.bootstrap:
        results, intervals = _intervals(set_aside_broken(results), arguments.bootstrap)
    _write_report(study, results, arguments.output or _report_folder(study, arguments), intervals)


def _has_begun(result: Result) -> bool:
    return result.state not in ("missing", "waiting")


def _report_folder(study: Study, arguments: argparse.Namespace) -> Path:
    return Path(arguments.work_dirs) / f"{study.name.replace('/', '_')}_report"


def _write_report(
    study: Study, results: Sequence[Result], output: str | os.PathLike, intervals: "Intervals | None" = None
) -> None:
    from loradet.experiments.pages.report import write_report

    for path in write_report(study, results, Path(output), intervals=intervals):
        print(path)
    if not any(result.state == "finished" for result in results):
        print(f"None of {len(results)} runs is finished: the report has no numbers.")


def _intervals(results: Sequence[Result], resamples: int) -> "tuple[list[Result], Intervals]":
    """The results, with those broken whose detections no longer give their AP, and the intervals of the others."""
    from loradet.experiments.results.intervals import bootstrap_runs

    kept, intervals = [], {}
    with tqdm(desc="bootstrap", unit="run", disable=None) as bar:
        for result in results:
            try:
                intervals |= bootstrap_runs([result], resamples, progress=lambda _: bar.update())
            except (ValueError, OSError) as error:
                if resamples < 1 or not is_user_error(error):
                    raise
                result = broken(result, one_line(error))
            kept.append(result)
    return kept, intervals


def _text(study: Study, arguments: argparse.Namespace) -> str:
    if arguments.command == "status":
        return status_table(_results(study, arguments, MODES))
    if arguments.command == "ledger":
        results = set_aside_broken(_results(study, arguments, MODES))
        return ledger(study, results, ids=arguments.ids, num_gpus=arguments.num_gpus, root=arguments.work_dirs)
    if arguments.command == "zoo":
        from loradet.experiments.pages.model_zoo import model_zoo

        page = Path(arguments.output or "page.md")
        results = set_aside_broken(_results(study, arguments, ("full",)))
        return model_zoo(study, results, root=os.path.relpath(".", page.parent))
    from loradet.experiments.results.results_file import result_to_dict

    results = set_aside_broken(_results(study, arguments, MODES))
    return json.dumps([result_to_dict(result) for result in results], indent=2)


def _write(text: str, output: str | os.PathLike | None) -> None:
    if output is None:
        print(text)
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_open(path) as file:
        file.write(text.rstrip() + "\n")
    print(path)
