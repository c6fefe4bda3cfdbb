"""How far a run is, told from the files in its folder alone."""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loradet.errors import UserError
from loradet.evaluation.coco_metrics import read_metrics
from loradet.experiments.results.folders import Result
from loradet.experiments.running.lock import holder
from loradet.experiments.running.run import CHECKPOINT, Run
from loradet.experiments.study.checks import CHECKS
from loradet.files import FileError, read_json
from loradet.json_kinds import NUMBER, TEXT, WHOLE, entries, list_of
from loradet.run_folder import RunFolder
from loradet.training.folder import record
from loradet.training.signals import EXIT_STATUS
from loradet.visualization.export.folder import MANIFEST
from loradet.wording import shorten

ATTEMPTS = "attempts.json"
METRICS = ("coco/bbox_", "calibration/")  # how the names of metrics begin in a metrics file
# Exit statuses of a process that was asked to leave.
INTERRUPTED = (*EXIT_STATUS.values(), -signal.SIGINT, -signal.SIGTERM)


def inspect(run: Run, *, ignore_lock: bool = False) -> Result:
    """What a run's folder holds now.

    Args:
        ignore_lock: the lock is the caller's own.

    Raises:
        ValueError: a file cannot be read, for one because it was cut in half; the entry and the file are named.
    """
    base = {"entry": run.entry, "mode": run.mode, "seed": run.seed, "folder": run.folder}
    try:
        if not ignore_lock and (pid := holder(run.folder)):
            return Result(**base, state="running", detail=f"process {pid}", record=record.read(run.folder))
        # Each file is read once: there may be a thousand runs.
        past, metrics = record.read(run.folder), {}
        is_training = run.entry.kind == "training"
        state, detail = _training_state(run, past, metrics) if is_training else _pictures_state(run)
        if state != "finished" or not is_training:
            return Result(**base, state=state, detail=detail, record=past, synthetic=_paints_synthetic(run))
    except (ValueError, OSError) as error:
        prefix = "" if str(error).startswith("Entry ") else f"Entry {run.entry.id}: "
        raise UserError(f"{prefix}{error}") from error
    numbers = {s: {k: v for k, v in m.items() if k.startswith(METRICS)} for s, m in metrics.items()}
    synthetic = any(m.get("data") == "synthetic" for m in metrics.values())
    # What was measured without pretrained weights says so wherever runs are listed.
    detail = "started from random weights" if past.get("initial_weights") == "random" else ""
    return Result(**base, state=state, detail=detail, metrics=numbers, record=past, synthetic=synthetic)


def _paints_synthetic(run: Run) -> bool:
    splits = [split for source in run.sources for split in record.read(source.folder).get("data", {}).values()]
    return any(split.get("synthetic") for split in splits)


def _training_state(run: Run, past: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """State and detail of a training by its record; the metrics of a run that is evaluated are put into `metrics`."""
    failure = _last_failure(run)
    if not past:
        return ("missing", "") if failure is None else ("failed", failure)
    if past.get("config_sha256") != run.identity:
        from loradet.experiments.running.config_changes import config_changes

        changes = config_changes(run.config, run.folder)
        what = f": {shorten(changes, 3)}; --overwrite starts afresh" if changes else ""
        return "changed", f"{run.folder} holds a run of another config{what}"
    status = past.get("status")
    if status == "failed":
        return "failed", str(past.get("error") or failure or "")
    if status != "finished" and failure is not None:
        return "failed", failure
    if status != "finished":
        return "interrupted", f"after iteration {past['iteration']}" if "iteration" in past else ""
    if absent := missing_splits(run):
        return "incomplete", f"finished, but not evaluated on {', '.join(absent)}"
    metrics |= {split: read_metrics(RunFolder(run.folder).split_metrics(split)) for split in run.splits}
    return ("failed", problem) if (problem := failed_check(run, metrics)) else ("finished", "")


def _is_finished(run: Run) -> bool:
    return _training_state(run, record.read(run.folder), {})[0] == "finished"


def _last_failure(run: Run) -> str | None:
    """The last words of the last try, where it failed and its training has not been begun again since."""
    attempts = read_attempts(run.folder)
    if not attempts or attempts[-1]["exit_code"] in (0, *INTERRUPTED):
        return None
    file = RunFolder(run.folder).record
    if file.is_file() and file.stat().st_mtime > attempts[-1]["ended"]:
        return None
    return output_tail(attempts[-1])


def output_tail(attempt: dict[str, Any]) -> str:
    """Why a try failed: the signal that ended it, or the last line that it printed."""
    code = attempt["exit_code"]
    if code < 0:
        return f"ended by {signal.Signals(-code).name if -code in signal.valid_signals() else f'signal {-code}'}"
    return attempt["log_tail"][-1] if attempt["log_tail"] else f"exit status {code}"


def needs_overwrite(result: Result) -> bool:
    """Whether a run can only be started afresh: one of another config, or one that finished and fails a check."""
    return result.state == "changed" or (result.state == "failed" and result.record.get("status") == "finished")


def missing_splits(run: Run) -> list[str]:
    """Splits whose metrics file a finished run lacks."""
    return [split for split in run.splits if not RunFolder(run.folder).split_metrics(split).is_file()]


def failed_check(run: Run, metrics: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What keeps a finished run from counting as one: a metric that was not saved, or a check of its entry.

    Args:
        metrics: content of its metrics files, by split.
    """
    for split, found in metrics.items():
        if absent := [name for name in run.entry.metrics if name not in found]:
            return f"{RunFolder(run.folder).split_metrics(split).name} has no {absent[0]}"
    for name, expected in run.entry.checks.items():
        if name == "trainable" and run.is_short and run.study.smoke.other_model:
            continue
        if problem := CHECKS[name](run.folder, expected):
            return f"check {name}: {problem}"
    return None


def _pictures_state(run: Run) -> tuple[str, str]:
    if not any(map(_is_finished, run.sources)):
        return "waiting", f"for a finished run of {' or '.join(s.entry.id for s in run.sources)}"
    unpainted = unpainted_sources(run)
    if not unpainted:
        return "finished", ""
    failure = _last_failure(run)
    return ("missing", f"to paint: {', '.join(s.name for s in unpainted)}") if failure is None else ("failed", failure)


def unpainted_sources(run: Run) -> list[Run]:
    """Finished sources whose pictures are not there, or are of weights that have been replaced since."""
    ready = [source for source in run.sources if _is_finished(source)]
    return [source for source in ready if not _is_painted(run.folder / source.name / MANIFEST, source)]


def _is_painted(manifest: Path, source: Run) -> bool:
    weights = source.folder / CHECKPOINT
    return manifest.is_file() and not (weights.is_file() and weights.stat().st_mtime > manifest.stat().st_mtime)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """What was tried in a run folder: `command`, `began`, `ended`, `exit_code` and `log_tail` (lines) of each try."""
    path = folder / ATTEMPTS
    if not path.is_file():
        return []
    advice = "Delete it if its record does not matter."
    attempts = read_json(path, list, advice=advice)
    if (problem := _ATTEMPTS(attempts, "")) is not None:
        raise FileError(f"{path}: {problem}. {advice}")
    return attempts


_ATTEMPT = {"command": list_of(TEXT), "began": NUMBER, "ended": NUMBER, "exit_code": WHOLE, "log_tail": list_of(TEXT)}
_ATTEMPTS = list_of(entries(_ATTEMPT, required=("ended", "exit_code", "log_tail")))
