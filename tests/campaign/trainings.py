"""The trainings of the campaign, and all that a finished one leaves, in which another one of its kind must be equal."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from helpers.paths import TEST_CONFIGS
from helpers.train_tool import reproducible
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loradet.run_folder import RunFolder

_SETTINGS = (
    *("train.max_iter=5", "train.eval_period=3", "train.checkpointer.period=2", "train.checkpointer.max_to_keep=1"),
    *("train.eval_splits=[val,test]", "dataloader.train.num_workers=0", "train.device=cpu"),
    "train.validation_pictures=0",
)
_ALL_DETECTIONS = "model.test_score_thresh=0.0"


@dataclass(frozen=True)
class Training:
    """A kind of training.

    Attributes:
        name: of it.
        config: below tests/configs.
        settings: overrides beside those of all.
        processes: of the training.
        keeps_features: whether its config has a feature cache.
    """

    name: str
    config: str = "tiny"
    settings: tuple[str, ...] = (_ALL_DETECTIONS,)
    processes: int = 1
    keeps_features: bool = False

    def words(self, data: Path, folder: Path, *more: str) -> list[str]:
        """Its command line."""
        given = [f"data.root={data}", f"train.output_dir={folder}", *_SETTINGS, *self.settings]
        if self.keeps_features:
            given.append(f"train.feature_cache.folder={folder.parent / 'features'}")
        return ["--config-file", str(TEST_CONFIGS / f"{self.config}.py"), *given, *more]


TRAININGS = [
    Training("single process"),
    Training("two processes", processes=2),
    Training("accumulation", settings=(_ALL_DETECTIONS, "train.accumulate=2")),
    Training("EMA", settings=(_ALL_DETECTIONS, "train.ema.enabled=True", "train.ema.decay=0.5")),
    Training("data workers", settings=(_ALL_DETECTIONS, *(f"dataloader.{s}.num_workers=2" for s in ("train", "val")))),
    Training("DETR", "tiny_detr", settings=()),
    Training("Cascade R-CNN", "tiny_cascade", settings=()),
    Training("feature cache", "tiny_cached", keeps_features=True),
]

# Of run.json: what hangs on when and how often a run was begun.
_OF_THE_MOMENT = ("wall_time_s", "finished_at", "resumed_at", "command", "images_per_s", "train_seconds")
_MEASURED = (*_OF_THE_MOMENT, "peak_memory_mb", "git_revision", "versions")


def remains(folder: Path) -> dict[str, Any]:
    """All that a finished run has left, by name, without times, memory and where its folder lies."""
    run = RunFolder(folder)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    left: dict[str, Any] = {"files": [name for name in names if not name.startswith("events.")]}
    left[RunFolder.METRICS] = [reproducible(json.loads(line)) for line in run.metrics.read_text().splitlines()]
    record = json.loads(run.record.read_text())
    left[RunFolder.RECORD] = {key: value for key, value in record.items() if key not in _MEASURED}
    for name in left["files"]:
        file = folder / name
        if file.suffix == ".pth":
            content = torch.load(file, weights_only=True)
            left[name] = _without_times(content)
        elif name in (RunFolder.METRICS, RunFolder.RECORD, RunFolder.LOCK) or name.startswith(RunFolder.LOG):
            continue
        else:
            left[name] = hashlib.sha256(file.read_bytes().replace(str(folder.parent).encode(), b"<place>")).hexdigest()
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    left["TensorBoard"] = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if reproducible({tag: 0})
    }
    return left


def _without_times(checkpoint: dict[str, Any]) -> dict[str, Any]:
    if trainer := checkpoint.get("trainer"):
        del trainer["step_seconds"], trainer["peak_memory_mb"]
        trainer["history"] = reproducible(trainer["history"])
    return checkpoint


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Places at which two values are not bit for bit the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = [f"{where}/{key}: in one alone" for key in sorted(map(str, ours.keys() ^ theirs.keys()))]
        for key in ours.keys() & theirs.keys():
            found += differences(ours[key], theirs[key], f"{where}/{key}")
        return found
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} and {len(theirs)} entries: {ours!r:.300} and {theirs!r:.300}"]
        return [d for i, pair in enumerate(zip(ours, theirs)) for d in differences(*pair, f"{where}[{i}]")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape and _bits(ours) == _bits(theirs)
    else:
        same = type(ours) is type(theirs) and (ours == theirs or repr(ours) == repr(theirs))  # NaN is NaN
    return [] if same else [f"{where}: {ours!r:.200} and {theirs!r:.200}"]


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
