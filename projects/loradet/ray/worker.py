"""What each worker of Ray Train does: the training, and reports of it to Ray."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from omegaconf import DictConfig

from loradet.evaluation.coco_metrics import PREFIX, read_metrics
from loradet.run_folder import RunFolder
from loradet.training.distributed import run_distributed
from loradet.training.hooks.evaluation import EvaluateAndKeepBest
from loradet.training.hooks.keep_checkpoints import KeepCheckpoints
from loradet.training.hooks.stages import Stage
from loradet.training.run import train

if TYPE_CHECKING:
    from loradet.training.trainer import Trainer

# What a training goes on from, the pointer to it last; files that only grow are copied, the others may be linked.
_STATE = (RunFolder.CONFIG, RunFolder.RECORD, RunFolder.PARAMETERS, RunFolder.METRICS, RunFolder.BEST)
_RESULTS = (RunFolder.ADAPTER, RunFolder.SPLIT_METRICS, RunFolder.OPERATING_POINT)
_APPENDED = (RunFolder.METRICS,)
_REPORT = ".report_"


@dataclass(frozen=True)
class Job:
    """What workers are told.

    Attributes:
        cfg: complete, with an absolute `train.output_dir`.
        folder: that relative paths are relative to.
        resume: go on with the run in the folder, or in its mirror, from the first.
    """

    cfg: DictConfig
    folder: str
    resume: bool


def train_worker(told: dict[str, Any]) -> None:
    """The training loop of a worker; its process group is Ray's.

    Raises:
        UserError: as `loradet.training.run.train`.
    """
    import ray.train
    from ray.train.torch import get_device

    job: Job = told["job"]
    if Path(job.folder).is_dir():
        os.chdir(job.folder)
    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    run_distributed(
        _train,
        num_gpus=1,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
        args=(job, ray.train.get_checkpoint()),
    )


def _train(job: Job, checkpoint: Any | None) -> None:
    import ray.train

    cfg = job.cfg
    folder = RunFolder(cfg.train.output_dir)
    if checkpoint is not None:
        # What Ray knows, all workers know, whatever each machine's folder holds.
        with checkpoint.as_directory() as source:
            if ray.train.get_context().get_local_rank() == 0:  # nodes may have different numbers of workers
                restore(Path(source), folder)
            comm.synchronize()
        cfg.train.overwrite = False
    report = ReportToRay(folder)
    train(cfg, resume=_resumes(job, folder, checkpoint), hooks=[report])
    report.end()


def _resumes(job: Job, folder: RunFolder, checkpoint: Any | None) -> bool:
    """Whether this goes on with a run: as told, or as what took a lost worker's place. A collective call."""
    if job.resume or checkpoint is not None:
        return True
    # That the folder was empty at first, or is to be overwritten, `trainer` has seen to.
    is_held = not job.cfg.train.overwrite and (folder.record.exists() or folder.last.exists())
    return comm.all_gather(is_held)[0]


def restore(source: Path, folder: RunFolder) -> None:
    """Put the files of a checkpoint into a run folder, the one that names the checkpoint last."""
    folder.path.mkdir(parents=True, exist_ok=True)
    last = source / RunFolder.LAST
    for file in sorted(source.iterdir(), key=lambda file: file == last):
        temporary = folder.path / f".{file.name}.{os.getpid()}.ray"
        shutil.copyfile(file, temporary)
        temporary.replace(folder.path / file.name)


class ReportToRay(HookBase):
    """Reports metrics to Ray at evaluations, and what a training goes on from where a checkpoint was saved.

    All workers report in the same iterations, as Ray demands; files and numbers are those of the main process.
    """

    stage = Stage.UPLOAD  # after the checkpoint of the same iteration
    trainer: "Trainer"

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self._last: str | None = None

    def after_step(self) -> None:
        """Report where something was evaluated or saved in this iteration."""
        hooks = self.trainer._hooks
        saved = [hook.saved[-1] for hook in hooks if isinstance(hook, KeepCheckpoints) and hook.saved]
        is_saved = bool(saved) and saved[-1] != self._last
        evaluated = any(
            isinstance(hook, EvaluateAndKeepBest) and hook.evaluated_at == self.trainer.iter for hook in hooks
        )
        if not is_saved and not evaluated:
            return
        self._last = saved[-1] if saved else None
        now = self.trainer.iter
        numbers = {name: value for name, (value, at) in self.trainer.storage.latest().items() if at == now}
        _report({"iteration": now, **numbers}, self.folder, (*_STATE, f"{self._last}.pth") if is_saved else ())

    def before_train(self) -> None:
        """Do not report once more what a resumed run has saved before."""
        for hook in self.trainer._hooks:
            if isinstance(hook, KeepCheckpoints) and hook.saved:
                self._last = hook.saved[-1]

    def end(self) -> None:
        """Report the metrics of the best weights on every split, as fractions, and the files of the whole run."""
        comm.synchronize()
        numbers: dict[str, Any] = {}
        if comm.is_main_process():
            past = self.folder.read_record()
            numbers = {"iteration": past.get("iteration"), "status": past.get("status")}
            for file in sorted(self.folder.path.glob(RunFolder.SPLIT_METRICS)):
                split = file.name.removesuffix("_metrics.json")
                numbers |= {f"{split}/{k}": v for k, v in read_metrics(file).items() if k.startswith(PREFIX)}
        last = self.folder.last_checkpoint()
        _report(numbers, self.folder, (*_STATE, *_RESULTS, *([last] if last else [])))


def _report(numbers: dict[str, Any], folder: RunFolder, patterns: tuple[str, ...]) -> None:
    import ray.train

    with contextlib.ExitStack() as stack:
        checkpoint = None
        if patterns and comm.is_main_process():
            directory = stack.enter_context(_snapshot(folder, patterns))
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(numbers, checkpoint=checkpoint)


@contextlib.contextmanager
def _snapshot(folder: RunFolder, patterns: tuple[str, ...]) -> Iterator[Path]:
    """A folder with files of a run as they are now, and the name of the checkpoint among them."""
    for left in folder.path.glob(f"{_REPORT}*"):  # by a killed worker
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_REPORT, dir=folder.path) as name:
        for pattern in (*patterns, RunFolder.LAST):
            for file in folder.path.glob(pattern):
                _take(file, Path(name, file.name), copy=file.name in _APPENDED)
        yield Path(name)


def _take(file: Path, target: Path, *, copy: bool) -> None:
    """Link where that is possible: what is written whole and renamed stays what it was."""
    if not copy:
        with contextlib.suppress(OSError):  # a file system without links
            target.hardlink_to(file)
            return
    shutil.copyfile(file, target)
