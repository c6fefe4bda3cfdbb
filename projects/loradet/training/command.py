"""What `loradet train` does once its arguments are parsed."""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

import torch
from detectron2.utils import comm
from omegaconf import DictConfig

from loradet.config import load_config
from loradet.config.splits import check_evaluation_split, evaluation_splits
from loradet.datasets.loader import SampleError
from loradet.errors import UserError, is_user_error, one_line, show_traceback
from loradet.evaluation.calibration.split_calibration import SplitFiles
from loradet.evaluation.class_order import splits_for_weights
from loradet.evaluation.detections.numbering import check_category_map
from loradet.evaluation.operating_point import operating_point_table
from loradet.evaluation.score_thresholds import write_operating_point
from loradet.evaluation.split import Split
from loradet.model import load_trained
from loradet.remote import local_path
from loradet.run_folder import RunFolder
from loradet.training.cached_features import cache_evaluation
from loradet.training.distributed import EXIT_ERROR, run_distributed
from loradet.training.folder.tool_commands import COMMAND, own_call
from loradet.training.launchers import StartedBy, rank_and_count, srun_task, started_by
from loradet.training.peers import another_has_ended
from loradet.training.run import train
from loradet.training.setup import setup_process
from loradet.training.signals import EXIT_STATUS, exit_status
from loradet.views import ViewDetector, Views

logger = logging.getLogger(__name__)


def run_command(arguments: argparse.Namespace) -> int:
    """Train or evaluate on as many processes as asked for; returns the exit status of this process."""
    try:
        starter = started_by(arguments.num_gpus, arguments.num_machines)
        own = ()
        # Tasks of srun meet first: nobody ends the others where one of them leaves.
        if starter is not StartedBy.SRUN:
            cfg = load_config(arguments.config_file, arguments.overrides, trusted=arguments.trust)
            # A started process reads the file itself. This one does not read it twice: it may register data sets.
            own = () if starter is StartedBy.OURSELVES else (cfg,)
        run_distributed(
            _process,
            num_gpus=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments, *own),
        )
    except KeyboardInterrupt as stop:
        return exit_status(stop)
    except Exception as error:
        if not is_user_error(error):
            raise
        return _fail(error)
    return 0


def _process(arguments: argparse.Namespace, cfg: DictConfig | None = None) -> None:
    """One process of the run; leaves by SystemExit where the exit status is not 0.

    Args:
        cfg: the config that `arguments` name, where it has been loaded.
    """
    try:
        if cfg is None:
            cfg = load_config(arguments.config_file, arguments.overrides, trusted=arguments.trust)
        if arguments.eval_only:
            checkpoint = _checkpoint_to_evaluate(cfg, arguments)
            # Of a training, --output is the folder of the run.
            output = arguments.output if arguments.command == "evaluate" else None
            chosen = getattr(arguments, "views", None)
            views = None if chosen is None else Views(**chosen)
            batch_size = getattr(arguments, "batch_size", 1)
            evaluate(cfg, checkpoint, arguments.split, arguments.output_json, output, views, batch_size)
            return
        outcome = train(cfg, resume=arguments.resume)
    except KeyboardInterrupt as stop:
        if not arguments.eval_only:
            _say_how_to_resume("Interrupted.")
        sys.exit(exit_status(stop))
    except Exception as error:
        if is_user_error(error):
            sys.exit(_fail(error))
        _wait_for_the_first_to_fail(error)
    if outcome is not None:
        _say_how_to_resume(f"Interrupted by {outcome.name}; everything is saved.")
        # The first process that leaves takes the others with it, and the main one may still be writing.
        comm.synchronize()
        sys.exit(EXIT_STATUS[outcome])


def _checkpoint_to_evaluate(cfg: DictConfig, arguments: argparse.Namespace) -> str | None:
    # Detectron2's users name the checkpoint by an override; what the config file has is only what training starts from.
    named = any(override.lstrip("+").startswith("train.init_checkpoint=") for override in arguments.overrides)
    return arguments.checkpoint or (cfg.train.init_checkpoint if named else None)


def _fail(error: BaseException) -> int:
    show_traceback(error)
    rank, world_size = _rank()
    # Where the main process fails too, its end is this one's: the message is shown once. A mistake in what was given is
    # met by all, if not at the same time; one process alone may meet a sample that cannot be read.
    if rank > 0 and another_has_ended(5.0 if isinstance(error, SampleError) else 20.0):
        return EXIT_ERROR
    where = f" (process {rank})" if world_size > 1 else ""
    print(f"error{where}: {one_line(error)}", file=sys.stderr, flush=True)
    return EXIT_ERROR


def _rank() -> tuple[int, int]:
    if torch.distributed.is_initialized():
        return comm.get_rank(), comm.get_world_size()
    return rank_and_count()


def _wait_for_the_first_to_fail(error: Exception) -> NoReturn:
    """Re-raise; a process that fails only because another one has left is ended meanwhile, without a traceback."""
    words = ("Connection closed", "Connection reset", "onnection was closed")
    lost = isinstance(error, torch.distributed.DistError) or any(one in str(error) for one in words)
    if lost and comm.get_world_size() > 1:
        if not another_has_ended(10.0):
            print(f"error (process {comm.get_rank()}): another process of the run has ended.", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    raise error


def _say_how_to_resume(what: str) -> None:
    if comm.is_main_process():
        print(f"{what} Go on with:\n  {resume_command()}", file=sys.stderr, flush=True)


def resume_command() -> str:
    """This process's own command line, with `--resume`."""
    start, words = own_call()
    words = [w for w in words if w != "--resume" and w.lower() != "train.overwrite=true"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))
        nodes = [f"--nnodes={machines}", "..."] if machines > 1 else []
        # It takes the place of the interpreter.
        behind = ["-m", "loradet.cli"] if Path(start[0]).name == COMMAND else []
        start = ["torchrun", *nodes, f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}", *behind, *start[1:]]
    elif (task := srun_task()) is not None:
        start = ["srun", f"--nodes={len(task.nodes)}", f"--ntasks={task.count}", *start]
    return shlex.join([*start, "--resume", *words])


def evaluate(
    cfg: DictConfig,
    checkpoint: str | None,
    split: str | None,
    output_json: str | None,
    output: str | None = None,
    views: Views | None = None,
    batch_size: int = 1,
) -> None:
    """Evaluate a checkpoint or an adapter on one split or on all of `train.eval_splits`.

    On the first of these its operating point is chosen too.

    Args:
        checkpoint: default: `model_best.pth` in `train.output_dir`.
        split: default: all of `train.eval_splits`.
        output_json: metrics file; default: `<split>_metrics.json` in `output`.
        output: folder for log and predictions; default: `eval_<checkpoint>/` in the run's, so that nothing of the run
            is replaced; by views `eval_<checkpoint>_<views>/`.
        views: tiles and the like; None: each image as it is.
        batch_size: views of an image at a time; no number depends on it.

    Raises:
        UserError: there is nothing to evaluate on, `output` is the folder of a run, or views of features that are kept.
    """
    run = RunFolder(cfg.train.output_dir)
    checkpoint = checkpoint or str(run.best)
    folder = run.evaluation(checkpoint, views.tag if views else "").path if output is None else Path(output)
    if RunFolder(folder).record.is_file():
        raise UserError(f"{folder} is the folder of a run, whose files an evaluation would replace; name another.")
    if views is not None and cfg.train.feature_cache.enabled:
        raise UserError("Features are kept of whole images: add train.feature_cache.enabled=False to look at others.")
    names = [split] if split else evaluation_splits(cfg)
    if not names:
        raise UserError("The config has neither dataloader.val nor dataloader.test to evaluate on.")
    for name in names:
        check_evaluation_split(cfg, name)
    metrics = Path(output_json) if output_json else None
    if metrics is not None:
        metrics.parent.mkdir(parents=True, exist_ok=True)
    device = setup_process(cfg, folder)
    cfg, splits = splits_for_weights(cfg, names, checkpoint)
    for one in splits:
        one.check()
    model, extras = load_trained(cfg, checkpoint, device=device, metadata=splits[0].metadata)
    fit = None if views else _temperature_source(cfg, Path(checkpoint), splits, run)
    first, *_ = evaluation_splits(cfg) or [splits[0].name]
    with cache_evaluation(cfg, model, splits):
        for one in splits if views else ():
            one.look(views)
        detector = ViewDetector(model, views, batch_size) if views else model
        for split in splits:
            split.evaluate(detector, folder)
            fit = fit or split.files(folder)
            iteration = extras.get("iteration")
            split.write_metrics(folder, checkpoint=checkpoint, iteration=iteration, output=metrics, fit=fit)
            if split.name == first:
                _find_operating_point(split, folder, checkpoint, iteration)


def _find_operating_point(split: Split, folder: Path, checkpoint: str, iteration: int | None) -> None:
    """Choose score thresholds for a checkpoint by its detections, write them beside these, and say them."""
    if not comm.is_main_process() or not local_path(checkpoint).is_file():
        return
    if (point := split.operating_point(folder)) is None:
        return
    about = split.provenance | split.about
    file = write_operating_point(folder, point, checkpoint=checkpoint, iteration=iteration, **about)
    logger.info("Operating point (%s on %s), in %s:\n%s", point.rule, point.split, file, operating_point_table(point))


def _temperature_source(cfg: DictConfig, checkpoint: Path, splits: list[Split], run: RunFolder) -> SplitFiles | None:
    """The detections that a temperature is fitted on, where those of the first split here are not the ones.

    The best weights of a finished run have left those of its first split.
    """
    first, *_ = evaluation_splits(cfg) or [splits[0].name]
    finished = run.read_record().get("status") == "finished"
    if first in [split.name for split in splits] or not finished or checkpoint.resolve() != run.best.resolve():
        return None
    files = Split(cfg, first).files(run.path)
    if files is not None:
        check_category_map(files.predictions, files.annotations)
    return files
