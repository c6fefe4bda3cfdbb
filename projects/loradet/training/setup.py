"""Set-up of a process: its folder, log, seed and device."""

import logging
import secrets
from pathlib import Path

import torch
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

import detectron2_embedded
from loradet.config.device import choose_device
from loradet.errors import UserError
from loradet.training.folder.log_file import tell_once_if_unwritable
from loradet.training.local_group import make_local_group

logger = logging.getLogger(__name__)

LOGGERS = ("detectron2", "loradet", "fvcore")  # which a run's log is made of


def setup_process(cfg: DictConfig, output_dir: Path) -> torch.device:
    """Make the output folder, open its log, seed all generators, and choose the device.

    Raises:
        ValueError: the folder cannot be written, or the device is not there.
    """
    _make_writable(output_dir)
    if torch.distributed.is_initialized():
        make_local_group()  # of a group that others have made
    rank = comm.get_rank()
    for name in LOGGERS:
        setup_logger(str(output_dir), distributed_rank=rank, name=name)
    tell_once_if_unwritable(LOGGERS, output_dir)
    device = choose_device(cfg.train.device)
    if cfg.train.seed < 0:
        cfg.train.seed = comm.all_gather(secrets.randbelow(2**31))[0]
    # Processes draw different dropout masks; the data order has its own seed.
    seed_all_rng(cfg.train.seed + rank)
    torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark
    if comm.is_main_process():
        logger.info("Detectron2 in use: %s.", detectron2_embedded.describe())
    logger.info("Process %d of %d on %s, seed %d.", rank, comm.get_world_size(), device, cfg.train.seed)
    if comm.is_main_process():
        logger.debug("Environment:\n%s", collect_env_info())
    return device


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable_{comm.get_rank()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"train.output_dir={folder} cannot be written: {error.strerror or error}.") from error
