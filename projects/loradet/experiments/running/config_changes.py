"""Differences between a run's config and that of the run which its folder holds."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from loradet.config.edits import with_num_classes
from loradet.config.flattening import flatten
from loradet.run_folder import RunFolder
from loradet.training.folder import record
from loradet.training.plan import is_in_epochs, iterations


def config_changes(cfg: DictConfig, folder: Path) -> list[str]:
    """A line for each key that differs from the folder's `config.yaml`, by key; none where there is no such file."""
    file = RunFolder(folder).config
    if not file.is_file():
        return []
    held = record.read_config(folder)
    cfg = _worked_out(cfg, held)
    # In it all is resolved, and so are the places of data in many values.
    before, now = (flatten(record.config_identity(one, held.get("data") or {})) for one in (held, cfg))
    comparable = partial(_comparable, per_epoch=record.read(folder).get("iterations_per_epoch"))
    return [
        f"{key} is {now.get(key, 'gone')}, was {before.get(key, 'not there')}"
        for key in sorted(before.keys() | now.keys())
        if comparable(key, before.get(key)) != comparable(key, now.get(key))
    ]


def _worked_out(cfg: DictConfig, held: DictConfig) -> DictConfig:
    """A copy of a config that has the classes of a saved one, and their number, where it works them out of the data."""
    names = OmegaConf.select(held, "data.classes")
    is_saved = names and with_num_classes(held.model, len(names)) == held.model
    if not is_saved or with_num_classes(cfg.model, len(names)) == cfg.model:
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.model = with_num_classes(cfg.model, len(names))
    if OmegaConf.select(cfg, "data.classes") is None:
        OmegaConf.update(cfg, "data.classes", list(names))
    return cfg


def _comparable(key: str, value: Any, per_epoch: int | None) -> Any:
    """A value that is written in one way only: a saved config has durations in iterations, and names of its own."""
    if not isinstance(value, str):
        return value
    if key.endswith("_target_"):
        return locate(value)
    return iterations(value, per_epoch, key) if per_epoch and is_in_epochs(value) else value
