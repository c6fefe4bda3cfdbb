"""Finds, loads and builds the configs in `configs/`."""

from pathlib import Path
from typing import NoReturn

import torch
from detectron2._subset import ADVICE
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig
from torch import nn

ROOT = Path(__file__).resolve().parent / "configs"


def get_config_file(config_path: str) -> str:
    """Path of a config file.

    Args:
        config_path: relative to `configs/`, as "common/models/retinanet.py".

    Raises:
        RuntimeError: no such file here; those that there are get named.
    """
    file = ROOT / config_path
    if not file.is_file():
        here = ", ".join(sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")))
        raise RuntimeError(
            f"The model zoo has no {config_path!r}; it has: {here}. Any other of Detectron2's configs (those of yacs, "
            f"all .yaml files, among them) {ADVICE}"
        )
    return str(file)


def get_config(config_path: str, trained: bool = False) -> DictConfig:
    """Load a config file.

    Args:
        config_path: see `get_config_file`.
        trained: have `train.init_checkpoint` name the weights that were trained by this config.

    Raises:
        RuntimeError: no such file here, or `trained` is asked for.
    """
    cfg = LazyConfig.load(get_config_file(config_path))
    if trained:
        get_checkpoint_url(config_path)
    return cfg


def get_checkpoint_url(config_path: str) -> NoReturn:
    """Where the weights are that were trained by a config: of none of the configs here.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"The model zoo has no trained weights for {config_path!r}: the list of Detectron2's checkpoints {ADVICE} "
        "Name a file or an address of weights in train.init_checkpoint instead."
    )


def get(config_path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build the model of a config file, in training mode.

    Its weights are those that `train.init_checkpoint` of the file names; random ones where it names none.

    Args:
        config_path, trained: see `get_config`.
        device: where the model goes; by default the CPU where there is no CUDA device, else where it was built.

    Raises:
        RuntimeError: as `get_config`, or the file describes no model.
    """
    cfg = get_config(config_path, trained)
    if "model" not in cfg:
        raise RuntimeError(f"{config_path} describes no model; it has: {', '.join(cfg)}.")
    model = instantiate(cfg.model)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if device is not None:
        model = model.to(device)
    if checkpoint := cfg.get("train", {}).get("init_checkpoint"):
        DetectionCheckpointer(model).load(checkpoint)
    return model
