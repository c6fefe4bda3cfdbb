"""What the output folder already holds: another run, the same one finished, or an earlier part of it."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from loradet.errors import UserError
from loradet.files import remove_abandoned, write_json
from loradet.run_folder import RunFolder
from loradet.training.folder import record
from loradet.training.folder.metrics_log import drop_lines_after
from loradet.training.hooks.hub import SENT

logger = logging.getLogger(__name__)


def check_output_dir(folder: Path, resume: bool, overwrite: bool) -> bool:
    """Whether the folder holds a run; ValueError where that must not be touched.

    Every process looks before the main one writes anything.
    """
    run = RunFolder(folder)
    held = [p.name for p in (run.record, run.last) if p.exists()]
    if held and not resume and not overwrite:
        raise UserError(
            f"{folder} holds a run ({', '.join(held)}). Go on with it by --resume, choose another "
            "train.output_dir, or start afresh in its place with train.overwrite=True."
        )
    comm.synchronize()
    return bool(held)


# Files of a run that begins anew; log.txt is open already and goes on.
_REPLACED = (
    # What is left of them if this is cut short is nothing to go on from, or to take for a whole run.
    *(RunFolder.LAST, RunFolder.PERIODIC, RunFolder.BEST, RunFolder.FINAL, RunFolder.ADAPTER),
    *(RunFolder.PARAMETERS, RunFolder.METRICS, RunFolder.SPLIT_METRICS, RunFolder.EVENTS, RunFolder.OPERATING_POINT),
)


def clear_folder(folder: Path, keep_before: int) -> None:
    """Remove what an earlier run, or the lost end of this one, has left: all from iteration `keep_before` on."""
    if keep_before:
        drop_lines_after(RunFolder(folder).metrics, keep_before - 1)
        return
    # The record stays until the new one replaces it: it says that the folder holds a run that is to be cleared.
    write_json(RunFolder(folder).record, {"status": "running"})
    for pattern in _REPLACED:
        for file in folder.glob(pattern):
            file.unlink()
    shutil.rmtree(RunFolder(folder).predictions_folder, ignore_errors=True)


# What a training writes aside and renames; the other files of its folder are other programs'.
_WRITTEN = (
    *(
        RunFolder.CONFIG,
        f".{RunFolder.CONFIG}",
        RunFolder.METRICS,
        RunFolder.RECORD,
        RunFolder.PARAMETERS,
        RunFolder.CHECKPOINTS,
    ),
    *(RunFolder.LAST, RunFolder.ADAPTER, RunFolder.SPLIT_METRICS, RunFolder.OPERATING_POINT, SENT),
    *(RunFolder.LOG, RunFolder.EVENTS),  # fetched from a mirror
)
_WRITTEN_OF_A_SPLIT = ("*.json", "*.png")


def clear_temporary(folder: Path) -> None:
    """Remove what killed parts of the run were writing; a file that somebody writes now is left alone."""
    removed = remove_abandoned(folder, _WRITTEN)
    for split in RunFolder(folder).predictions_folder.glob("*/"):
        removed += remove_abandoned(split, _WRITTEN_OF_A_SPLIT)
    if removed:
        logger.info("Removed half-written files of a killed part of the run: %s.", ", ".join(removed))


_DATA_KEYS = ("source", "fingerprint", "num_images", "num_annotations", "synthetic")


def describe_data(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What data are, by split: annotation file (`source`), its fingerprint, classes, numbers of all, synthetic.

    Args:
        metadata: Detectron2's, by split; data without a fingerprint are left out.
    """
    described = {}
    for split, known in metadata.items():
        if known.get("fingerprint") is not None:
            names = list(known.get("thing_classes") or ())
            classes = {"num_classes": len(names), "classes": names}
            described[split] = {key: known.get(key) for key in _DATA_KEYS} | classes
    return described


def check_data(folder: RunFolder, data: Mapping[str, Mapping[str, Any]], *, accept: bool) -> None:
    """Compare the annotation files of now with those that a run in a folder began with, by what is in them.

    Args:
        folder: of the run; older ones noted less of their data.
        data: of now, as `describe_data` gives it.
        accept: warn only.

    Raises:
        UserError: a file has changed; it is named, and what differs.
    """
    past = folder.read_record().get("data") or {}
    changed = [
        f"{now['source']} ({split}: {_change(past[split], now)})"
        for split, now in data.items()
        if split in past and past[split].get("fingerprint") not in (None, now["fingerprint"])
    ]
    if not changed:
        return
    if accept:
        logger.warning("Changed since the run began, and accepted: %s.", "; ".join(changed))
        return
    raise UserError(
        f"The run in {folder.path} began with other data; changed since: {'; '.join(changed)}. Put the former file "
        "back, start afresh by train.overwrite=True, or go on with the data of now by train.accept_changed_data=True."
    )


def _change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    counts = [
        f"{before[key]} {key.removeprefix('num_')} before, {now[key]} now"
        for key in ("num_images", "num_annotations", "num_classes")
        if before.get(key) is not None and before[key] != now[key]
    ]
    names = before.get("classes")
    if names is not None and names != now["classes"]:
        counts.append(f"classes {', '.join(names)} before, {', '.join(now['classes'])} now")
    return "; ".join(counts) or "as many images, annotations and classes, other content"


def is_finished(folder: Path, identity: str, data: dict[str, dict[str, Any]]) -> bool:
    """Whether the folder holds this very run, at its end.

    Args:
        identity: the config's hash.
        data: of now, as `describe_data` gives it.

    Raises:
        ValueError: it does, but its data have changed since.
    """
    past = record.read(folder)
    if past.get("status") != "finished" or past.get("config_sha256") != identity:
        return False
    contents = [{split: d["fingerprint"] for split, d in x.items()} for x in (past.get("data", {}), data)]
    if contents[0] != contents[1]:
        raise UserError(
            f"The run in {folder} was made on other data: their annotation files have changed since. Choose another "
            "train.output_dir, or start afresh in its place with train.overwrite=True."
        )
    logger.info("The run in %s is finished; nothing is left to do.", folder)
    return True
