"""What `loradet study search` does once its arguments are parsed."""

import argparse
import dataclasses
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from loradet.errors import UserError
from loradet.experiments.pages.search_report import search_table, write_search_report
from loradet.experiments.running.runner import Executor, LocalExecutor
from loradet.experiments.search.best_config import FILE as BEST
from loradet.experiments.search.best_config import best_config
from loradet.experiments.search.definition import Search, load_search
from loradet.experiments.search.running import Searching
from loradet.experiments.search.runs import TrialRuns
from loradet.experiments.search.space import shown
from loradet.experiments.search.state import Objective, check_same, objective_of
from loradet.experiments.search.trial import FINISHED, OPEN, Trial, read_trials
from loradet.files import atomic_open
from loradet.locking import LockedError, file_lock

_SLOTS = 4  # of executors that do not say how many runs they carry out at a time
_LOCK = ".lock"


def run_search(arguments: argparse.Namespace, make_executor: Callable[[argparse.Namespace], Executor]) -> int:
    """Begin a search or go on with it; returns the exit status: 0 where all trials have ended.

    Args:
        arguments: of the command line.
        make_executor: makes what carries out runs, by its options.

    Raises:
        UserError: as `load_search`; another process works on the search; its trials are of another config.
    """
    if arguments.trials is not None and arguments.trials < 1:
        raise UserError(f"--trials {arguments.trials}: expected at least 1.")
    search = load_search(_file(arguments))
    if arguments.trials is not None:
        search = dataclasses.replace(search, trials=arguments.trials)
    folder = Path(arguments.work_dirs) / f"{search.name}_search"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    # A shell that starts a command in the background has it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with file_lock(folder / _LOCK, f"the search in {folder}", wait=False):
            outlive = arguments.executor == "slurm"
            with _connection(arguments):
                return _run(search, folder, executors(arguments, make_executor), outlive=outlive)
    except LockedError as error:
        raise UserError(str(error)) from error


def _connection(arguments: argparse.Namespace) -> AbstractContextManager[Any]:
    """Of Ray, one for all trials."""
    if arguments.executor != "ray":
        return nullcontext()
    from loradet.experiments.running.ray_cluster import connected

    return connected(arguments.address)


def _file(arguments: argparse.Namespace) -> Path:
    given = arguments.file or arguments.study
    if given is None:
        raise UserError("Which search? Name its file, as configs/mine/search.yaml, or its folder.")
    return Path(given)


def executors(arguments: argparse.Namespace, make_executor: Callable[[argparse.Namespace], Executor]) -> list[Executor]:
    """What carries out runs, one a slot; all slots share one that deals out the GPUs, of this machine or a cluster."""
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs}: expected at least 1.")
    if arguments.executor == "local":
        local = make_executor(arguments)
        assert isinstance(local, LocalExecutor)
        return [local] * local.jobs
    if arguments.executor == "ray":
        jobs = arguments.jobs or _SLOTS
        return [make_executor(argparse.Namespace(**{**vars(arguments), "jobs": jobs}))] * jobs
    one = argparse.Namespace(**{**vars(arguments), "jobs": None})
    default = 1 if arguments.executor == "slurm-debug" else _SLOTS  # which runs in this process
    return [make_executor(one) for _ in range(arguments.jobs or default)]


def _run(search: Search, folder: Path, slots: Sequence[Executor], *, outlive: bool) -> int:
    runs, trials = TrialRuns(search, folder), read_trials(folder)
    objective = objective_of(runs.base)
    check_same(search, folder, runs.base)
    searching = Searching(runs, objective, trials, slots, outlive=outlive)
    try:
        searching.carry_out()
    finally:
        write_results(runs, objective, trials)
    return 0 if len(trials) >= search.trials and all(trial.state != OPEN for trial in trials) else 1


def write_results(runs: TrialRuns, objective: Objective, trials: Sequence[Trial]) -> None:
    """The table, the pages, the best trial as a config, and all trials as a study."""
    search, folder = runs.search, runs.folder
    print(search_table(search, folder, objective, trials))
    paths = write_search_report(search, folder, objective, trials)
    _write(folder / "study.yaml", _as_study(search, trials))
    if (best := objective.best(trials)) is not None:
        finished = sum(trial.state == FINISHED for trial in trials)
        title = (
            f"{best.run} of the search {search.name}: {objective.metric} {shown(best.value)} on {search.splits[0]}, "
            f"the best of {finished} finished trials of {len(trials)}, and by that optimistic. Use it in the project's "
            "folder."
        )
        output_dir = str(folder.with_name(f"{search.name}_best"))
        _write(folder / BEST, best_config(runs.run(best), title, output_dir))
        paths.append(folder / BEST)
    for path in paths:
        print(path)


def _as_study(search: Search, trials: Sequence[Trial]) -> str:
    """All trials as a study.yaml, for what `loradet study` has of reports."""
    entries = [dataclasses.asdict(search.entry(trial.number, trial.words)) for trial in trials]
    kept = ("id", "title", "objective", "config", "overrides", "seeds", "splits")
    plain = [{key: list(e[key]) if isinstance(e[key], tuple) else e[key] for key in kept} for e in entries]
    content = {"name": search.name, "title": search.study().title, "entries": plain}
    if search.scenes is not None:
        content["scenes"] = {k: v for k, v in dataclasses.asdict(search.scenes).items() if v is not None}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _write(path: Path, text: str) -> None:
    with atomic_open(path) as file:
        file.write(text)
