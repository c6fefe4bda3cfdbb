"""Training and evaluation from Python, in this process."""

import contextlib
import copy
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from loradet.config.load import complete, load_config
from loradet.config.overrides import override_words
from loradet.evaluation.coco_metrics import read_metrics
from loradet.run_folder import RunFolder
from loradet.training import command, run
from loradet.training.setup import LOGGERS
from loradet.views import Views

PathLike = str | os.PathLike[str]


def train(
    config: PathLike | DictConfig,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    hooks: Sequence[HookBase] = (),
) -> Path:
    """Train what a config describes, in this process, and evaluate its best weights.

    In a process group of `torch.distributed` that exists already all its processes call this, and train together; the
    group is left alone at the end.

        folder = loradet.train("custom_coco", ["data.root=~/my_data", "train.output_dir=work_dirs/mine"])

    Args:
        config: a file, or the name of one of the project's own (`loradet configs` lists them), or what
            `loradet.get_config` has loaded and you have edited, which stays as it is.
        overrides: `key=value` words.
        resume: go on from the folder's last checkpoint.
        hooks: more of them; each has its turn at its `stage` (`loradet.training.hooks.Stage`).

    Returns:
        The run's folder, `train.output_dir`.

    Raises:
        UserError: as `loradet.training.run.train`.
        KeyboardInterrupt: it was interrupted; what was done is saved, and `resume=True` goes on.
    """
    cfg = _complete_config(config, overrides)
    with _own_log():
        stopped_by = run.train(cfg, resume=resume, hooks=hooks)
    if stopped_by is not None:
        raise KeyboardInterrupt
    return Path(cfg.train.output_dir)


def evaluate(
    config: PathLike | DictConfig,
    checkpoint: PathLike | None = None,
    split: str = "val",
    overrides: Sequence[str] = (),
    *,
    views: Views | None = None,
) -> dict[str, Any]:
    """Metrics of a checkpoint or an adapter on a split.

    Args:
        config: as `train` takes it, or the folder of a run.
        checkpoint: `.pth` or `.safetensors`; None: the best weights of the config's run.
        split: of the config's `dataloader`.
        overrides: `key=value` words.
        views: tiles, mirrored and resized looks at each image; None: the image as it is.

    Returns:
        COCO's metrics as fractions of 1 by the studies' names, as `coco/bbox_mAP`, and where they come from, as
        `checkpoint`.

    Raises:
        UserError: the weights are missing, or do not fit the data.
    """
    if not isinstance(config, DictConfig) and Path(config).is_dir():
        config = RunFolder(config).config
    cfg = _complete_config(config, overrides)
    with tempfile.TemporaryDirectory() as folder, _own_log():
        output = Path(folder, "metrics.json")
        command.evaluate(cfg, None if checkpoint is None else str(checkpoint), split, str(output), views=views)
        return read_metrics(output)


def _complete_config(config: PathLike | DictConfig, overrides: Sequence[str]) -> DictConfig:
    words = override_words(overrides)
    return complete(copy.deepcopy(config), words) if isinstance(config, DictConfig) else load_config(str(config), words)


@contextlib.contextmanager
def _own_log() -> Iterator[None]:
    """Take away what a run adds to the loggers, so that the next one of this process is not in its `log.txt` too."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            for added in [one for one in logger.handlers if one not in handlers]:
                logger.removeHandler(added)
            logger.setLevel(level)
            logger.propagate = propagate
        # An installed Detectron2 remembers which folders have a log, and would give them no other.
        getattr(setup_logger, "cache_clear", lambda: None)()
