"""Run folders that cannot be read: a row that says so, in place of an error that ends a report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loradet.errors import UserError, is_user_error, one_line
from loradet.experiments.results.consistency import is_short, read_config
from loradet.experiments.results.curves import RunLog, read_log
from loradet.experiments.results.dynamics import run_dynamics
from loradet.experiments.results.folders import Result
from loradet.experiments.results.split_files import read_calibration
from loradet.experiments.running.run import Run
from loradet.experiments.running.state import inspect
from loradet.run_folder import RunFolder

BROKEN = "broken"


def inspect_or_broken(run: Run) -> Result:
    """What `inspect` says; where it cannot read the folder, a result of the state "broken" with the reason."""
    try:
        return inspect(run)
    except (ValueError, OSError) as error:
        if not is_user_error(error):
            raise
        base = {"entry": run.entry, "mode": run.mode, "seed": run.seed, "folder": run.folder}
        return Result(**base, state=BROKEN, detail=one_line(error))


def set_aside_broken(results: Sequence[Result], logs: dict[Path, RunLog] | None = None) -> list[Result]:
    """The results, those of runs whose files cannot be read with the state "broken", the reason and no numbers.

    Args:
        logs: where those that are read on the way are put, by folder.
    """
    runs = Counter(_group(result) for result in results if _is_trained(result))
    return [_checked(result, {} if logs is None else logs, alone=runs[_group(result)] < 2) for result in results]


def broken(result: Result, reason: str) -> Result:
    """The result of a run that is not to be counted."""
    return replace(result, state=BROKEN, detail=reason, metrics={}, record={})


def _checked(result: Result, logs: dict[Path, RunLog], *, alone: bool) -> Result:
    try:
        if _is_trained(result):
            logs[result.folder] = read_log(result)
            _read_config(result, needed=not alone)
            for split in result.metrics:
                read_calibration(result, split)
        if result.entry.factors and result.state != BROKEN:
            run_dynamics(result)
    except (ValueError, OSError) as error:
        if not is_user_error(error):
            raise
        return broken(result, one_line(error))
    return result


def _read_config(result: Result, *, needed: bool) -> None:
    path = RunFolder(result.folder).config
    if needed and not path.is_file():
        raise UserError(
            f"{result.entry.id}: {path} does not exist, so that nothing tells whether the seeds differ in more than "
            "the seed. Put it back, or run that seed again."
        )
    read_config(result)


def _is_trained(result: Result) -> bool:
    return result.state == "finished" and result.entry.kind == "training"


def _group(result: Result) -> tuple[str, bool]:
    return result.entry.id, is_short(result)
