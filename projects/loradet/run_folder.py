"""The files of a run: the one place that knows their names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from loradet.files import FileError, read_json
from loradet.json_kinds import NUMBER, TEXT, WHOLE, entries, mapping_to, optional

_LONGEST_NAME = 255  # of a file
_COUNTS = entries({"trainable": WHOLE, "total": WHOLE}, required=("trainable", "total"))
_SPLIT = entries({"fingerprint": TEXT, "source": optional(TEXT), "num_images": WHOLE, "num_classes": WHOLE})
_RECORD = entries(
    {
        "status": TEXT,
        "error": optional(TEXT),
        "stopped_by": optional(TEXT),
        "seed": WHOLE,
        "config_sha256": TEXT,
        "git_revision": optional(TEXT),
        "device": TEXT,
        "processes": WHOLE,
        "initial_weights": optional(TEXT),
        "versions": mapping_to(optional(TEXT)),
        "data": mapping_to(_SPLIT),
        "run_ids": mapping_to(optional(TEXT)),
        "iteration": WHOLE,
        "iterations_per_epoch": optional(WHOLE),
        "parameters": mapping_to(_COUNTS),
        "best": optional(entries({"metric": TEXT, "value": optional(NUMBER), "iteration": WHOLE})),
        "efficiency": optional(entries({"split": TEXT, "images/s": NUMBER})),
        "finished_at": TEXT,
        **{name: optional(NUMBER) for name in ("images_per_s", "train_seconds", "peak_memory_mb", "wall_time_s")},
    }
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, `train.output_dir`.

    Attributes:
        path: of the folder.
    """

    path: Path

    CONFIG: ClassVar[str] = "config.yaml"  # resolved
    LOG: ClassVar[str] = "log.txt"
    METRICS: ClassVar[str] = "metrics.json"  # a line a logging period
    EVENTS: ClassVar[str] = "events.out.tfevents.*"  # TensorBoard's
    RECORD: ClassVar[str] = "run.json"
    PARAMETERS: ClassVar[str] = "parameters.json"
    CHECKPOINTS: ClassVar[str] = "model_*.pth"
    PERIODIC: ClassVar[str] = "model_[0-9]*.pth"
    BEST: ClassVar[str] = "model_best.pth"
    FINAL: ClassVar[str] = "model_final.pth"
    LAST: ClassVar[str] = "last_checkpoint"  # names the checkpoint to go on from
    ADAPTER: ClassVar[str] = "adapter.safetensors"
    SPLIT_METRICS: ClassVar[str] = "*_metrics.json"
    SMOKE_METRICS: ClassVar[str] = "smoke_metrics.json"
    OPERATING_POINT: ClassVar[str] = "operating_point.json"
    LOCK: ClassVar[str] = ".lock"  # held by the training, or by the study that has started it
    STOP: ClassVar[str] = "stop"  # made by anybody: asks the training to save and leave
    TRIAL: ClassVar[str] = "trial.json"  # of a search
    PREDICTIONS: ClassVar[str] = "coco_instances_results.json"  # in predictions/<split>/

    # What each file holds, for the reference; patterns as glob has them.
    CONTENTS: ClassVar[dict[str, str]] = {
        CONFIG: "the resolved config, classes and their number as values; `--config-file` takes it as it is",
        LOG: "the whole log; `log.txt.rank1` … those of the other processes",
        METRICS: "a JSON object a logging period: losses, learning rate, times, AP in percent",
        EVENTS: "the same, and a few painted validation images, for `tensorboard --logdir work_dirs`",
        PARAMETERS: "trainable and total parameters by part, and the names of those that train",
        PERIODIC: "checkpoints with all that `--resume` needs, the weights' classes too",
        FINAL: "the checkpoint of the last iteration",
        LAST: "the name of the checkpoint to go on from",
        BEST: "the weights of the best evaluation so far",
        ADAPTER: "what was trained, to share",
        SPLIT_METRICS: "`val_metrics.json` …: COCO metrics of `model_best.pth`, as fractions",
        SMOKE_METRICS: "the same of a smoke run (`train.smoke=True`), in place of them",
        OPERATING_POINT: "the scores from which on detections of `model_best.pth` are taken, class by class",
        f"predictions/*/{PREDICTIONS}": "its detections, a folder a split",
        "predictions/*/numbering.json": "the annotation file whose ids they have, and its categories",
        "predictions/*/calibration.json": "whether their scores mean what they say, where the config asks",
        "predictions/*/reliability_diagram.png": "the same as a picture",
        "eval_*/": "log, metrics and predictions of a later evaluation, by the checkpoint's name and its views",
        "export/": "adapters that `loradet adapters export` has written",
        RECORD: "seed, revision, versions, device, parameters, data (files, fingerprints, synthetic or not), images/s, "
        "peak memory, wall time, status",
        LOCK: "the number of the process that trains in the folder, which holds a lock on it; empty when nobody does",
        STOP: "an empty file that anybody makes: the training saves, leaves as after Ctrl-C, and removes it",
        TRIAL: "of a trial of `loradet study search`: its values, its evaluations, how it ended",
        "attempts.json": "of runs that `loradet study` started: every try, how it ended and its last output",
        "console.txt": "of such runs: all that they printed",
        "wandb/": "files of Weights & Biases, where `train.wandb.project` is set",
        ".hub_sent.json": "what was uploaded to the Hugging Face Hub, where `train.hub.repo_id` is set",
    }

    def __init__(self, path: str | os.PathLike):
        object.__setattr__(self, "path", Path(path))

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / self.CONFIG

    @property
    def log(self) -> Path:
        """What the console showed."""
        return self.path / self.LOG

    @property
    def metrics(self) -> Path:
        """Losses and metrics, a JSON object a line."""
        return self.path / self.METRICS

    @property
    def record(self) -> Path:
        """What the run was, on what it ran, and how it ended."""
        return self.path / self.RECORD

    @property
    def parameters(self) -> Path:
        """What trains."""
        return self.path / self.PARAMETERS

    @property
    def best(self) -> Path:
        """The weights of the best evaluation."""
        return self.path / self.BEST

    @property
    def adapter(self) -> Path:
        """The adapter of those weights."""
        return self.path / self.ADAPTER

    @property
    def operating_point(self) -> Path:
        """Score thresholds of the best weights, by class."""
        return self.path / self.OPERATING_POINT

    @property
    def last(self) -> Path:
        """Holds the name of the checkpoint to go on from."""
        return self.path / self.LAST

    @property
    def lock(self) -> Path:
        """Says which process works on the run, and is locked meanwhile (`loradet.locking`)."""
        return self.path / self.LOCK

    @property
    def stop(self) -> Path:
        """Asks the training to save and leave, where it is there."""
        return self.path / self.STOP

    @property
    def trial(self) -> Path:
        """Which trial of a search the run is."""
        return self.path / self.TRIAL

    @property
    def predictions_folder(self) -> Path:
        """Detections, in a folder a split."""
        return self.path / "predictions"

    def checkpoint(self, iteration: int) -> Path:
        """The checkpoint that is saved after an iteration, numbered from 0; that of the last one is `FINAL`."""
        return self.path / f"model_{iteration:07d}.pth"

    def checkpoints(self) -> list[Path]:
        """All that a run can go on from, by name."""
        return sorted(path for path in self.path.glob(self.CHECKPOINTS) if path.name != self.BEST)

    def predictions(self, split: str) -> Path:
        """The detections on a split, as COCO has them."""
        return self.predictions_folder / split / self.PREDICTIONS

    def split_metrics(self, split: str, *, smoke: bool = False) -> Path:
        """The metrics of a split, as fractions; a smoke run has one such file."""
        return self.path / (self.SMOKE_METRICS if smoke else f"{split}_metrics.json")

    def evaluation(self, checkpoint: str | os.PathLike, views: str = "") -> "RunFolder":
        """Where a later evaluation of a checkpoint leaves its files, so that nothing of the run is replaced.

        Args:
            views: how it looked at images, as `loradet.views.Views.tag` says; empty: at each as it is.
        """
        return RunFolder(self.path / f"eval_{Path(checkpoint).stem}{'_' if views else ''}{views}")

    def last_checkpoint(self) -> str | None:
        """File name of the checkpoint to go on from, or None.

        Raises:
            FileError: the file holds something else.
        """
        if not self.last.is_file():
            return None
        try:
            name = self.last.read_bytes().decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{self.last} cannot be read ({error}). {self._last_advice()}") from error
        if not name:
            return None
        if not name.isprintable() or Path(name).name != name or name == ".." or len(name) > _LONGEST_NAME:
            raise FileError(f"{self.last} holds {name[:40]!r}, no name of a checkpoint. {self._last_advice()}")
        return name

    def _last_advice(self) -> str:
        names = ", ".join(path.name for path in self.checkpoints())
        return f"Write the name of a checkpoint into it ({names})." if names else "Delete it: no checkpoint is there."

    def read_record(self) -> dict[str, Any]:
        """The content of `run.json`; empty where there is none.

        Raises:
            FileError: the file is broken; it is named.
        """
        if not self.record.is_file():
            return {}
        advice = "Delete it if the run does not matter."
        content = read_json(self.record, advice=advice)
        if (problem := _RECORD(content, "")) is not None:
            raise FileError(f"{self.record}: {problem}. {advice}")
        return content
