"""Rules of intensity in a config: which one a split is read by, and the one that weights were trained with."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf, open_dict

from loradet.config.splits import split_config
from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.intensity_check import check_intensity
from loradet.datasets.mapper import DetectionMapper
from loradet.datasets.readers.records import column
from loradet.weight_classes import read_weight_intensity

logger = logging.getLogger(__name__)


def check_images(cfg: DictConfig, split: str, records: Sequence[dict[str, Any]] | None) -> None:
    """Refuse images that the mapper of `dataloader.<split>` would lose pixels of; see `check_intensity`.

    Mappers of others, which may read as they like, are not looked into.

    Raises:
        UserError: names a file, its depth, and what to write.
    """
    node = split_config(cfg, split).get("mapper")
    if records is None or not OmegaConf.is_dict(node):
        return
    target = _target(node)
    if target is DatasetMapper:
        check_intensity(column(records, "file_name"), None, split)
    elif _is_own(target):
        rule = Intensity.parse(node.get("intensity", "auto"))
        check_intensity(column(records, "file_name"), rule, split)


def with_intensity_of(cfg: DictConfig, checkpoint: str | Path) -> DictConfig:
    """A config whose images are read by the rule that weights were trained with.

    A config that asks for another rule than "auto" keeps it, with a warning where it differs.

    Args:
        cfg: with `dataloader`; it is left as it is.
        checkpoint: a checkpoint or an adapter file, which may say its rule, or be older.
    """
    trained = read_weight_intensity(checkpoint)
    nodes = [node for node in _mappers(cfg) if _is_own(_target(node))]
    asked = {Intensity.parse(node.get("intensity", "auto")) for node in nodes} - {Intensity()}
    if trained is None or not nodes or asked == {trained} or (trained == Intensity() and not asked):
        return cfg
    if asked:
        logger.warning(
            "%s was trained with data.intensity=%s; the images are read by the config's, %s.",
            *(checkpoint, trained, ", ".join(map(str, sorted(asked, key=str)))),
        )
        return cfg
    logger.info("Images are read by data.intensity=%s, as %s was trained.", trained, checkpoint)
    cfg = copy.deepcopy(cfg)
    for node in _mappers(cfg):
        if _is_own(_target(node)):
            with open_dict(node):
                node.intensity = trained.to_value()
    if OmegaConf.is_dict(cfg.get("data")) and "intensity" in cfg.data:
        cfg.data.intensity = trained.to_value()
    return cfg


def trained_intensity(cfg: DictConfig) -> Intensity | None:
    """The rule of a config's training images; None of a mapper that has none."""
    node = (cfg.dataloader.get("train") or {}).get("mapper")
    if not OmegaConf.is_dict(node) or not _is_own(_target(node)):
        return None
    return Intensity.parse(node.get("intensity", "auto"))


def intensity_references(cfg: DictConfig) -> dict[str, str]:
    """Mappers' references to `data.intensity` as they are written, by key."""
    found = {}
    for node in _mappers(cfg):
        if "intensity" in node and OmegaConf.is_interpolation(node, "intensity"):
            raw = OmegaConf.to_container(node, resolve=False)["intensity"]
            found[node._get_full_key("intensity")] = raw
    return found


def _mappers(cfg: DictConfig) -> list[DictConfig]:
    loaders = [(cfg.get("dataloader") or {}).get(name) for name in cfg.get("dataloader") or {}]
    nodes = [loader.get("mapper") for loader in loaders if OmegaConf.is_dict(loader)]
    return [node for node in nodes if OmegaConf.is_dict(node)]


def _target(node: DictConfig) -> Any:
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target


def _is_own(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, DetectionMapper)
