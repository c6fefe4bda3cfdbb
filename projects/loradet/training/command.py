"""What `tools/lazyconfig_train_net.py` does once its arguments are parsed."""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from loradet.datasets.loader import SampleError
from loradet.evaluation.splits import dataset_metadata, evaluate_split, evaluation_splits, split_config
from loradet.training.distributed import run_distributed
from loradet.training.finish import load_for_evaluation, write_split_metrics
from loradet.training.overrides import check_overrides
from loradet.training.run import check_num_classes, train
from loradet.training.settings import complete_train_settings
from loradet.training.setup import setup_process
from loradet.training.trainer import NonFiniteLossError

logger = logging.getLogger(__name__)

# Mistakes in what a user gave: one line says it all. Anything else keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, SampleError, NonFiniteLossError, OmegaConfBaseException)
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


def load_config(file: str, overrides: list[str]) -> DictConfig:
    """Load a config, fill the `train` keys that it does not name, and apply command-line overrides.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a syntax error, an unknown key in `train` or in an override.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"Config file {file} does not exist.")
    try:
        cfg = LazyConfig.load(file)
    except SyntaxError as error:
        raise ValueError(
            f"Config file {error.filename or file}, line {error.lineno}: {error.msg}."
        ) from error
    complete_train_settings(cfg)
    check_overrides(cfg, overrides)
    cfg = LazyConfig.apply_overrides(cfg, overrides)
    complete_train_settings(cfg)
    return cfg


def run_command(arguments: argparse.Namespace) -> int:
    """Train or evaluate on as many processes as asked for; returns the exit status of this process."""
    try:
        load_config(arguments.config_file, arguments.overrides)
        run_distributed(
            _process,
            num_gpus=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments,),
        )
    except USER_ERRORS as error:
        return _fail(error)
    return 0


def _process(arguments: argparse.Namespace) -> None:
    """One process of the run; leaves by SystemExit where the exit status is not 0."""
    try:
        cfg = load_config(arguments.config_file, arguments.overrides)
        if arguments.eval_only:
            evaluate(cfg, arguments.checkpoint, arguments.split, arguments.output_json)
            return
        outcome = train(cfg, resume=arguments.resume)
    except USER_ERRORS as error:
        sys.exit(_fail(error))
    if outcome == "interrupted":
        if comm.is_main_process():
            print(f"Interrupted; everything is saved. Go on with:\n  {_resume_command()}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: BaseException) -> int:
    if os.environ.get("LORADET_TRACEBACK"):
        logger.exception("Failed")
    else:
        logger.debug("Failed", exc_info=error)
    rank = f" (process {comm.get_rank()})" if comm.get_world_size() > 1 else ""
    print(f"error{rank}: {error}", file=sys.stderr)
    return EXIT_ERROR


def _resume_command() -> str:
    words = [w for w in sys.argv if w not in ("--resume", "train.overwrite=True", "train.overwrite=true")]
    return shlex.join([Path(sys.executable).name, words[0], "--resume", *words[1:]])


def evaluate(cfg: DictConfig, checkpoint: str | None, split: str | None, output_json: str | None) -> None:
    """Evaluate a checkpoint or an adapter on one split or on all of `train.eval_splits`.

    Args:
        checkpoint: default: `train.init_checkpoint`, else `model_best.pth` in `train.output_dir`.
        split: default: all of `train.eval_splits`.
        output_json: metrics file; default: `<split>_metrics.json` in `<train.output_dir>/eval_<checkpoint>/`, where
            log and predictions go too, so that nothing of the run is replaced.
    """
    path = Path(checkpoint or cfg.train.init_checkpoint or Path(cfg.train.output_dir) / "model_best.pth")
    folder = Path(cfg.train.output_dir) / f"eval_{path.stem}"
    splits = [split] if split else evaluation_splits(cfg)
    if not splits:
        raise ValueError("The config has neither dataloader.val nor dataloader.test to evaluate on.")
    device = setup_process(cfg, folder)
    instantiate(split_config(cfg, splits[0]).dataset)
    model = instantiate(cfg.model).to(device)
    check_num_classes(model, dataset_metadata(cfg, splits[0]))
    extras = load_for_evaluation(model, str(path))
    for name in splits:
        evaluate_split(cfg, model, name, folder)
        output = Path(output_json) if output_json else None
        write_split_metrics(cfg, name, folder, path, extras.get("iteration"), output)
