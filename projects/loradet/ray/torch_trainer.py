"""One training as a `TorchTrainer` of Ray Train."""

import copy
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from loradet.config.load import complete, load_config
from loradet.config.overrides import override_words
from loradet.errors import UserError
from loradet.ray.worker import Job, train_worker
from loradet.run_folder import RunFolder

if TYPE_CHECKING:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer


def trainer(
    config: str | os.PathLike[str] | DictConfig,
    overrides: Sequence[str] = (),
    *,
    num_workers: int = 1,
    use_gpu: bool = False,
    resume: bool = False,
    max_failures: int = 3,
    scaling_config: "ScalingConfig | None" = None,
    run_config: "RunConfig | None" = None,
) -> "TorchTrainer":
    """A training as Ray Train carries it out; `fit()` of what is returned begins it.

        result = loradet.ray.trainer("custom_coco", ["data.root=~/data"], num_workers=4, use_gpu=True).fit()

    The run folder, `train.output_dir`, is that of any other run. Ray gets a checkpoint of it whenever one is saved,
    metrics at every evaluation and at the end, and goes on from the last checkpoint where a worker or its node dies.

    Args:
        config: a file, or the name of one of the project's own, or what `loradet.get_config` has loaded.
        overrides: `key=value` words.
        num_workers: processes, each a worker of Ray with one CPU.
        use_gpu: one GPU each.
        resume: go on from the run folder's last checkpoint, or begin where there is none.
        max_failures: how often a failed worker is replaced; -1: always.
        scaling_config: instead of `num_workers` and `use_gpu`.
        run_config: instead of one whose storage is `<train.output_dir>/ray` and has the last checkpoint alone; several
            machines take one with a storage that all of them reach.

    Raises:
        ImportError: Ray is not installed.
        UserError: as `loradet.train`, as far as the config and the folder tell before any worker begins.
    """
    try:
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise ImportError("loradet.ray needs Ray Train: pip install -e '.[ray]'.") from error
    _check_numbers(num_workers, max_failures)
    cfg = _complete_config(config, overrides)
    # A worker stands in a folder of its own.
    cfg.train.output_dir = str(Path(cfg.train.output_dir).absolute())
    _check_folder(RunFolder(cfg.train.output_dir), resume=resume, overwrite=cfg.train.overwrite)
    scaling = scaling_config or ScalingConfig(num_workers=num_workers, use_gpu=use_gpu)
    if run_config is None:
        run_config = RunConfig(
            name=time.strftime("%Y-%m-%d_%H-%M-%S"),
            storage_path=str(Path(cfg.train.output_dir, "ray")),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=max_failures),
        )
    job = Job(cfg=cfg, folder=str(Path.cwd()), resume=resume)
    return TorchTrainer(train_worker, train_loop_config={"job": job}, scaling_config=scaling, run_config=run_config)


def _check_numbers(num_workers: int, max_failures: int) -> None:
    if num_workers < 1 or max_failures < -1:
        raise UserError(f"num_workers={num_workers}, max_failures={max_failures}: expected at least 1, and -1 or more.")


def _complete_config(config: str | os.PathLike[str] | DictConfig, overrides: Sequence[str]) -> DictConfig:
    words = override_words(overrides)
    return complete(copy.deepcopy(config), words) if isinstance(config, DictConfig) else load_config(str(config), words)


def _check_folder(folder: RunFolder, *, resume: bool, overwrite: bool) -> None:
    """Workers that take the place of lost ones go on: that this is no other run's folder is told before."""
    held = [file.name for file in (folder.record, folder.last) if file.exists()]
    if held and not resume and not overwrite:
        raise UserError(
            f"{folder.path} holds a run ({', '.join(held)}). Go on with it by resume=True, choose another "
            "train.output_dir, or start afresh in its place with train.overwrite=True."
        )
