"""What differs between a run's config and that of the run which its folder holds."""

from functools import partial
from pathlib import Path
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig

from loradet.flattening import flatten
from loradet.run_folder import RunFolder
from loradet.training import record
from loradet.training.plan import iterations


def config_changes(cfg: DictConfig, folder: Path) -> list[str]:
    """A line for each key that differs from the folder's `config.yaml`, by key; none where there is no such file."""
    file = RunFolder(folder).config
    if not file.is_file():
        return []
    held = record.read_config(folder)
    # In it all is resolved, and so are the places of data in many values.
    before, now = (flatten(record.config_identity(one, held.get("data") or {})) for one in (held, cfg))
    comparable = partial(_comparable, per_epoch=record.read(folder).get("iterations_per_epoch"))
    return [
        f"{key} is {now.get(key, 'gone')}, was {before.get(key, 'not there')}"
        for key in sorted(before.keys() | now.keys())
        if comparable(key, before.get(key)) != comparable(key, now.get(key))
    ]


def _comparable(key: str, value: Any, per_epoch: int | None) -> Any:
    """A value that is written in one way only: a saved config has durations in iterations, and names of its own."""
    if not isinstance(value, str):
        return value
    if key.endswith("_target_"):
        return locate(value)
    return iterations(value, per_epoch, key) if per_epoch and value.endswith(" epochs") else value
