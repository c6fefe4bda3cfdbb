"""What `tools/lazyconfig_train_net.py` does once its arguments are parsed."""

import argparse
import logging
import os
import shlex
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.utils import comm
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from loradet.backbones.timm_factory import PretrainedWeightsError
from loradet.datasets.loader import SampleError
from loradet.evaluation.splits import (
    check_evaluation_split,
    dataset_metadata,
    evaluate_split,
    evaluation_splits,
    fill_in_evaluated_data,
    load_dataset,
)
from loradet.training import record
from loradet.training.distributed import EXIT_ERROR, EXIT_INTERRUPTED, run_distributed, starts_processes
from loradet.training.finish import load_for_evaluation, write_split_metrics
from loradet.training.overrides import check_overrides
from loradet.training.run import check_classes, train
from loradet.training.settings import complete_train_settings
from loradet.training.setup import setup_process
from loradet.training.trainer import NonFiniteLossError

logger = logging.getLogger(__name__)

# Mistakes in what a user gave: one line says it all. Anything else keeps its traceback.
USER_ERRORS = (
    *(ValueError, OSError, ImportError, OmegaConfBaseException),
    *(SampleError, NonFiniteLossError, PretrainedWeightsError),
)


def load_config(file: str, overrides: list[str]) -> DictConfig:
    """Load a config, fill the `train` keys that it does not name, and apply command-line overrides.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a syntax error, a name that the file does not know, an unknown key in `train` or in an override.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"Config file {file} does not exist.")
    try:
        cfg = LazyConfig.load(file)
    except SyntaxError as error:
        # Detectron2 wraps the error that knows the line.
        if error.lineno is None and isinstance(error.__cause__, SyntaxError):
            error = error.__cause__
        raise ValueError(f"Config file {error.filename or file}, line {error.lineno}: {error.msg}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"Config file {file} is broken: {one_line(error)}.") from error
    except (NameError, AttributeError, TypeError, LookupError, AssertionError, ImportError) as error:
        raise ValueError(
            f"Config file {_innermost_config(error, file)}: {type(error).__name__}: {one_line(error)}."
        ) from error
    complete_train_settings(cfg)
    check_overrides(cfg, overrides)
    try:
        cfg = LazyConfig.apply_overrides(cfg, overrides)
    except (HydraException, KeyError, AssertionError) as error:
        raise ValueError(f"Overrides {' '.join(overrides)}: {one_line(error)}.") from error
    complete_train_settings(cfg)
    fill_in_evaluated_data(cfg)
    return cfg


def _innermost_config(error: BaseException, file: str) -> str:
    """File and line of the config (the file or one that it imports) in which an error arose."""
    # A config runs as a module of its own; the line that called whatever failed is the one to look at.
    modules = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    ours = [frame for frame in modules if Path(frame.filename).is_file() and "site-packages" not in frame.filename]
    return f"{ours[-1].filename}, line {ours[-1].lineno}" if ours else file


def run_command(arguments: argparse.Namespace) -> int:
    """Train or evaluate on as many processes as asked for; returns the exit status of this process."""
    try:
        cfg = load_config(arguments.config_file, arguments.overrides)
        # A started process reads the file itself. This one does not read it twice: it may register data sets.
        own = () if starts_processes(arguments.num_gpus, arguments.num_machines) else (cfg,)
        run_distributed(
            _process,
            num_gpus=arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(arguments, *own),
        )
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
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
            cfg = load_config(arguments.config_file, arguments.overrides)
        if arguments.eval_only:
            evaluate(cfg, _checkpoint_to_evaluate(cfg, arguments), arguments.split, arguments.output_json)
            return
        outcome = train(cfg, resume=arguments.resume)
    except KeyboardInterrupt:
        if not arguments.eval_only:
            _say_how_to_resume("Interrupted.")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if is_user_error(error):
            sys.exit(_fail(error))
        _wait_for_the_first_to_fail(error)
    if outcome == "interrupted":
        _say_how_to_resume("Interrupted; everything is saved.")
        # The first process that leaves takes the others with it, and the main one may still be writing.
        comm.synchronize()
        sys.exit(EXIT_INTERRUPTED)


def _checkpoint_to_evaluate(cfg: DictConfig, arguments: argparse.Namespace) -> str | None:
    # Detectron2's users name the checkpoint by an override; what the config file has is only what training starts from.
    named = any(override.lstrip("+").startswith("train.init_checkpoint=") for override in arguments.overrides)
    return arguments.checkpoint or (cfg.train.init_checkpoint if named else None)


def is_user_error(error: BaseException) -> bool:
    """Whether the message of an error is all that a user needs, so that no traceback is shown."""
    if isinstance(error, TypeError):
        # An argument in the config that its target does not have.
        return "argument" in str(error)
    if isinstance(error, KeyError):
        return "regist" in str(error)  # DatasetCatalog
    return isinstance(error, USER_ERRORS)


def one_line(error: BaseException) -> str:
    """The message of an error without what libraries put around it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OmegaConfBaseException):
        missing = text.partition("Missing mandatory value: ")[2].split()
        if missing:
            return f"The config has no value for {missing[0]}; give it as {missing[0]}=VALUE."
        return text.splitlines()[0]
    if "in DataLoader worker process" in text:
        # The worker's traceback, whose last line is the error itself.
        text = text.strip().splitlines()[-1].removeprefix(f"{SampleError.__module__}.{SampleError.__name__}: ")
    return " ".join(line.strip() for line in text.splitlines())


def _fail(error: BaseException) -> int:
    if os.environ.get("LORADET_TRACEBACK"):
        traceback.print_exception(error)
    rank, world_size = _rank()
    if rank > 0:
        # Where the main process fails too, its end is this one's: the message is shown once. A mistake in what was
        # given is met by all, if not at the same time; one process alone may meet a sample that cannot be read.
        time.sleep(5.0 if isinstance(error, SampleError) else 20.0)
    where = f" (process {rank})" if world_size > 1 else ""
    print(f"error{where}: {one_line(error)}", file=sys.stderr, flush=True)
    return EXIT_ERROR


def _rank() -> tuple[int, int]:
    if torch.distributed.is_initialized():
        return comm.get_rank(), comm.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _wait_for_the_first_to_fail(error: Exception) -> NoReturn:
    """Re-raise; a process that fails only because another one has left is ended meanwhile, without a traceback."""
    lost = any(words in str(error) for words in ("Connection closed", "Connection reset", "onnection was closed"))
    if lost and comm.get_world_size() > 1:
        time.sleep(10.0)
        print(f"error (process {comm.get_rank()}): another process of the run has ended.", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    raise error


def _say_how_to_resume(what: str) -> None:
    if comm.is_main_process():
        print(f"{what} Go on with:\n  {resume_command()}", file=sys.stderr, flush=True)


def resume_command() -> str:
    """This process's own command line, with `--resume`."""
    words = [w for w in sys.argv[1:] if w != "--resume" and w.lower() != "train.overwrite=true"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))
        start = ["torchrun", *([f"--nnodes={machines}", "..."] if machines > 1 else [])]
        start.append(f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}")
    else:
        name = Path(sys.executable).name
        on_path = shutil.which(name)
        start = [name if on_path and Path(on_path).samefile(sys.executable) else os.path.relpath(sys.executable)]
    return shlex.join([*start, sys.argv[0], "--resume", *words])


def evaluate(cfg: DictConfig, checkpoint: str | None, split: str | None, output_json: str | None) -> None:
    """Evaluate a checkpoint or an adapter on one split or on all of `train.eval_splits`.

    Args:
        checkpoint: default: `model_best.pth` in `train.output_dir`.
        split: default: all of `train.eval_splits`.
        output_json: metrics file; default: `<split>_metrics.json` in `<train.output_dir>/eval_<checkpoint>/`, where
            log and predictions go too, so that nothing of the run is replaced.
    """
    checkpoint = checkpoint or str(Path(cfg.train.output_dir) / "model_best.pth")
    folder = Path(cfg.train.output_dir) / f"eval_{Path(checkpoint).stem}"
    splits = [split] if split else evaluation_splits(cfg)
    if not splits:
        raise ValueError("The config has neither dataloader.val nor dataloader.test to evaluate on.")
    for name in splits:
        check_evaluation_split(cfg, name)
    output = Path(output_json) if output_json else None
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    device = setup_process(cfg, folder)
    load_dataset(cfg, splits[0])
    model = instantiate(cfg.model).to(device)
    check_classes(model, dataset_metadata(cfg, splits[0]))
    extras = load_for_evaluation(model, checkpoint, cfg.train.init_checkpoint)
    fit_split, fit_folder = _temperature_source(cfg, Path(checkpoint), splits, folder)
    for name in splits:
        evaluate_split(cfg, model, name, folder)
        write_split_metrics(
            *(cfg, name, folder, Path(checkpoint), extras.get("iteration"), output),
            fit_split=fit_split,
            fit_folder=fit_folder,
        )


def _temperature_source(cfg: DictConfig, checkpoint: Path, splits: list[str], folder: Path) -> tuple[str, Path]:
    """The split whose detections a temperature is fitted on, and the folder that they are in.

    The best weights of a finished run have left those of its first split.
    """
    own = Path(cfg.train.output_dir)
    first, *_ = evaluation_splits(cfg) or splits
    finished = record.read(own).get("status") == "finished"
    if first not in splits and finished and checkpoint.resolve() == (own / "model_best.pth").resolve():
        return first, own
    return splits[0], folder
