"""What most training scripts share: arguments, set-up, writers, DDP."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2._subset import missing_names
from detectron2.config import LazyConfig
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["create_ddp_model", "default_argument_parser", "default_setup", "default_writers"]

_PRECISIONS = ("", "highest", "high", "medium")

_EXAMPLES = """
Examples:

One machine:
    $ {program} --config-file configs/quickstart.py --num-gpus 8

Other values than the config file's:
    $ {program} --config-file configs/quickstart.py optimizer.lr=0.001 train.output_dir=work_dirs/try

Two machines:
    (machine 0) $ {program} --machine-rank 0 --num-machines 2 --dist-url tcp://HOST:PORT [other options]
    (machine 1) $ {program} --machine-rank 1 --num-machines 2 --dist-url tcp://HOST:PORT [other options]
"""


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Parser of the arguments that Detectron2's training scripts have in common.

    Args:
        epilog: text below the help; default: examples.
    """
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(program=Path(sys.argv[0]).name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="lazy config (.py or .yaml)")
    parser.add_argument("--resume", action="store_true", help="go on from the output folder's last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate only")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes on each machine; one uses one GPU or the CPU"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="where processes meet: tcp://HOST:PORT, or auto on a single machine",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="overrides of the config: path.key=value")
    return parser


def default_setup(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Begin a run: make its output folder, log there, note environment and config (`config.yaml`), seed.

    Args:
        cfg: a lazy config. Of it may be there: `train.output_dir` or `output_dir` (without one nothing is
            written), `train.seed` (default -1: random, else this plus the rank is used),
            `train.cudnn_benchmark`, and `train.float32_precision`, a word of
            `torch.set_float32_matmul_precision`, which holds for convolutions on a GPU too.
        args: parsed arguments; `config_file` and `eval_only` are used if there are any.

    Raises:
        TypeError: `cfg` is of another kind.
        ValueError: an unknown `train.float32_precision`.
    """
    if not isinstance(cfg, DictConfig):
        raise TypeError(
            f"default_setup takes a lazy config, not {type(cfg).__name__}; an installed Detectron2 takes "
            "yacs configs too."
        )
    precision = OmegaConf.select(cfg, "train.float32_precision") or ""
    if precision not in _PRECISIONS:
        raise ValueError(f"train.float32_precision={precision!r}: expected {', '.join(map(repr, _PRECISIONS))}.")
    output_dir = OmegaConf.select(cfg, "output_dir") or OmegaConf.select(cfg, "train.output_dir")
    if output_dir and comm.is_main_process():
        PathManager.mkdirs(output_dir)
    comm.synchronize()
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    _log_config_file(logger, getattr(args, "config_file", ""))
    if output_dir and comm.is_main_process():
        path = Path(output_dir, "config.yaml")
        _log_config(logger, cfg)
        LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)
    seed = OmegaConf.select(cfg, "train.seed", default=-1)
    seed_all_rng(None if seed is None or seed < 0 else seed + rank)
    # Choosing kernels by trial pays off over many batches of like sizes, not in an evaluation.
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = bool(OmegaConf.select(cfg, "train.cudnn_benchmark", default=False))
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"
        logger.info("Precision of float32 products and convolutions: %s", precision)


def _log_config_file(logger: logging.Logger, path: str | None) -> None:
    if path:
        with PathManager.open(path) as file:
            logger.info("Contents of args.config_file=%s:\n%s", path, file.read())


def _log_config(logger: logging.Logger, cfg: DictConfig) -> None:
    try:
        text = LazyConfig.to_py(cfg)
    except OmegaConfBaseException as error:
        # Nothing may ever read that value, so it is no reason to stop.
        logger.warning("The config has a value that does not resolve: %s", error)
    else:
        logger.info("Running with full config:\n%s", text)


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers to the log, to `metrics.json` and to TensorBoard events, the latter two in `output_dir`.

    Args:
        output_dir: made if missing.
        max_iter: iterations of the training, for the time left.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(Path(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


def create_ddp_model(model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any) -> nn.Module:
    """The model in DistributedDataParallel if the run has several processes, else the model itself.

    Args:
        model: on its device already.
        fp16_compression: exchange gradients as float16.
        kwargs: of DistributedDataParallel; `device_ids` defaults to this process's GPU, or None on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs:
        on_gpu = next(model.parameters()).is_cuda
        kwargs["device_ids"] = [comm.get_local_rank()] if on_gpu else None
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        ddp.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return ddp


__getattr__ = missing_names(__name__, ["DefaultPredictor", "DefaultTrainer"])
