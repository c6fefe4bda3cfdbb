"""Which score threshold a tool works with: the one that is given, else the operating point that the weights have."""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from detectron2.structures import Instances

from loradet.adapters.files.adapter_file import METADATA_KEY
from loradet.backbones.weights import UNREADABLE
from loradet.evaluation.operating_point import DEFAULT_THRESHOLD, OperatingPoint
from loradet.files import read_json, sha256, write_json
from loradet.run_folder import RunFolder
from loradet.wording import shorten

logger = logging.getLogger(__name__)

KEY = "operating_point"  # in checkpoints, in the metadata of adapters and of exported models


@dataclass(frozen=True)
class ScoreThresholds:
    """Scores from which on detections are taken.

    Attributes:
        by_class: by class number; or one number for all classes.
        source: where they come from, in words.
    """

    by_class: tuple[float, ...] | float
    source: str

    def keep(self, instances: Instances) -> torch.Tensor:
        """(N,) bool of N detections."""
        if not isinstance(self.by_class, tuple):
            return instances.scores >= self.by_class
        thresholds = torch.tensor(self.by_class, dtype=torch.float64, device=instances.scores.device)
        return instances.scores >= thresholds[instances.pred_classes]

    def describe(self, names: Sequence[str]) -> str:
        """For people: "0.3 (given)", or "ship 0.41, car 0.37 (best F1 on val)"."""
        if not isinstance(self.by_class, tuple):
            return f"{self.by_class:g} ({self.source})"
        shown = shorten((f"{name} {value:g}" for name, value in zip(names, self.by_class)), 12)
        return f"{shown} ({self.source})"

    def brief(self) -> str:
        """For headings: "0.3", or "that of its class (best F1 on val)"."""
        return f"that of its class ({self.source})" if isinstance(self.by_class, tuple) else f"{self.by_class:g}"

    def plain(self, names: Sequence[str]) -> float | dict[str, float]:
        """For JSON: the number, or numbers by class name."""
        return dict(zip(names, self.by_class)) if isinstance(self.by_class, tuple) else self.by_class


def choose_thresholds(
    given: float | None, point: OperatingPoint | None, names: Sequence[str], weights: str | os.PathLike
) -> ScoreThresholds:
    """What was given; else the operating point of the weights; else 0.3, with a warning.

    Args:
        given: by the user.
        point: of the weights, as `find_operating_point` finds it.
        names: classes by number.
        weights: file that they are in, for the warning.
    """
    if given is not None:
        return ScoreThresholds(given, "given")
    if point is not None and point.overall.threshold is None:
        logger.warning(
            "%s: nothing that it found on %s was right, so it has no operating point: detections with a score of %g or "
            "more are taken; --score-threshold sets another.",
            *(weights, point.split, DEFAULT_THRESHOLD),
        )
        return ScoreThresholds(DEFAULT_THRESHOLD, f"default: nothing right was found on {point.split}")
    if point is not None:
        own = {one.name for one in point.classes if one.threshold is not None}
        others = [name for name in names if name not in own]
        shared = f"; {shorten(others)}: of all classes together" if others else ""
        return ScoreThresholds(point.thresholds(names), f"{point.rule} on {point.split}{shared}")
    logger.warning(
        "%s has no operating point: detections with a score of %g or more are taken. `lazyconfig_train_net.py "
        "--eval-only` finds one; --score-threshold sets another.",
        *(weights, DEFAULT_THRESHOLD),
    )
    return ScoreThresholds(DEFAULT_THRESHOLD, "default")


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
    checkpoint = Path(checkpoint)
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
    checkpoint = Path(checkpoint)
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
