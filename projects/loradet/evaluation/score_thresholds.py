"""The operating point of weights: where it is written, and looked for."""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch

from loradet.adapters.files.adapter_file import METADATA_KEY
from loradet.backbones.weights import UNREADABLE
from loradet.evaluation.chosen_thresholds import KEY, ScoreThresholds, choose_thresholds
from loradet.evaluation.operating_point import OperatingPoint
from loradet.files import read_json, sha256, write_json
from loradet.remote import local_path
from loradet.run_folder import RunFolder

__all__ = [
    "KEY",
    "ScoreThresholds",
    "choose_thresholds",
    "find_operating_point",
    "stored_operating_point",
    "weights_digest",
    "write_operating_point",
]


def write_operating_point(
    folder: str | os.PathLike, point: OperatingPoint, *, checkpoint: str | os.PathLike, **about: Any
) -> Path:
    """Write `operating_point.json` into a run's or an evaluation's folder.

    Args:
        point: of the weights in `checkpoint`, a file that is there.
        **about: plain values to write besides.
    """
    path = RunFolder(folder).operating_point
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = local_path(checkpoint)
    write_json(path, {"checkpoint": checkpoint.name, "weights": weights_digest(checkpoint), **about, **point.to_dict()})
    return path


def find_operating_point(
    checkpoint: str | os.PathLike, output_dir: str | os.PathLike | None = None, views: str = ""
) -> OperatingPoint | None:
    """The operating point that was found for a checkpoint or an adapter; None where there is none.

    It is looked for in the folder of a later evaluation of it, in its run's folder, then in the file itself. What is
    in a folder counts only where it was found for this very file.

    Args:
        output_dir: `train.output_dir`, for evaluations of a file that lies elsewhere.
        views: `loradet.views.Views.tag`: what an evaluation by the same ones has found comes first.

    Raises:
        UserError: what is there is broken.
    """
    checkpoint = local_path(checkpoint)
    if not checkpoint.is_file():
        return None
    run = RunFolder(checkpoint.parent)
    runs = [run] if output_dir is None else [run, RunFolder(output_dir)]
    folders = [one.evaluation(checkpoint, views) for one in runs if views]
    folders += [run.evaluation(checkpoint), run, *(one.evaluation(checkpoint) for one in runs[1:])]
    files = [folder.operating_point for folder in folders if folder.operating_point.is_file()]
    digest = weights_digest(checkpoint) if files else ""
    for file in files:
        content = read_json(file, advice="Delete it, or evaluate again.")
        if content.get("weights") == digest:
            return OperatingPoint.parse(content, str(file))
    held = stored_operating_point(checkpoint)
    return None if held is None else OperatingPoint.parse(held, str(checkpoint))


def stored_operating_point(path: Path) -> Any:
    """What a checkpoint or an adapter file holds itself; None where it does not, or cannot be read."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as opened:
                info = json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
            return (info.get("metadata") or {}).get(KEY)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (*UNREADABLE, OSError, safetensors.SafetensorError):
        return None
    return content.get(KEY) if isinstance(content, Mapping) else None


def weights_digest(path: Path) -> str:
    """sha256 that tells one file of weights from another.

    Of torch's checkpoints, which are zip files, over the checksums in their directory: they may have gigabytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            digest = hashlib.sha256()
            for entry in archive.infolist():
                digest.update(f"{entry.filename} {entry.file_size} {entry.CRC:08x}\n".encode())
            return digest.hexdigest()
    except zipfile.BadZipFile:
        return sha256(path)
