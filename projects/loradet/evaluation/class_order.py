"""Aligns data with weights: their order of classes, their intensity rule."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog
from omegaconf import DictConfig, OmegaConf, open_dict

from loradet.checkpoint import check_is_there
from loradet.config.intensity import with_intensity_of
from loradet.config.splits import accepts, dataset_name
from loradet.errors import UserError
from loradet.evaluation.split import Split
from loradet.weight_classes import WeightClasses, compare_classes, read_weight_classes


def splits_for_weights(cfg: DictConfig, names: Sequence[str], checkpoint: str | Path) -> tuple[DictConfig, list[Split]]:
    """Splits to run a checkpoint or an adapter on: classes are numbered and images read as the weights have them.

    Args:
        cfg: with `dataloader`.
        names: of the splits.
        checkpoint: which names its classes, or is older and does not.

    Returns:
        The config that the splits were read by, and the splits.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        UserError: the data have other classes, or cannot be read in another order; or as `Split`.
    """
    check_is_there(checkpoint)
    cfg = with_intensity_of(cfg, checkpoint)
    splits = [Split(cfg, name) for name in names]
    weights = read_weight_classes(checkpoint)
    orders = [order_of(weights, split.metadata, checkpoint) for split in splits[: 1 if weights is None else None]]
    if not any(orders):
        return cfg, splits
    cfg = with_class_order(cfg, weights.names)
    return cfg, [Split(cfg, name) for name in names]


def order_of(weights: WeightClasses | None, metadata: Any, source: str | Path) -> list[str] | None:
    """`compare_classes` with the classes of a data set, by its metadata."""
    where = metadata.get("source") or metadata.get("json_file") or metadata.get("name") or "the data set"
    return compare_classes(weights, metadata.get("thing_classes") or None, source=source, data=where)


def with_class_order(cfg: DictConfig, names: Sequence[str]) -> DictConfig:
    """A copy of a config whose data sets have these classes, in this order; to be read again.

    Raises:
        UserError: a data set is made by a call that takes no `classes`.
    """
    cfg = copy.deepcopy(cfg)
    for split in cfg.dataloader:
        node = cfg.dataloader[split]
        dataset = node.get("dataset") if OmegaConf.is_dict(node) else None
        if not OmegaConf.is_dict(dataset) or "_target_" not in dataset:
            continue
        if not accepts(dataset, "classes"):
            raise UserError(
                f"dataloader.{split}.dataset takes no classes=[…], so it cannot be read in the order of the weights: "
                f"{', '.join(names)}. Register its classes in this order."
            )
        with open_dict(dataset):
            dataset.classes = list(names)
        # The name stands for the data in their former order.
        name = dataset_name(cfg, split)
        if name is not None and name in DatasetCatalog:
            DatasetCatalog.remove(name)
    return cfg
