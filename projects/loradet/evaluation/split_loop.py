"""Evaluates one split of a config's data."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, open_dict
from torch.utils.data import DataLoader

from loradet.config.build import build
from loradet.config.splits import (
    accepts,
    dataset_name,
    evaluator_nodes,
    name_evaluated_data,
    split_config,
)
from loradet.datasets.data_processes import set_up_workers
from loradet.datasets.loader import NamedFailures


def load_dataset(cfg: DictConfig, split: str) -> Sequence[dict] | None:
    """The data set of a split, which registers what it is; None where the loader's config does not tell it."""
    dataset = split_config(cfg, split).get("dataset")
    return None if dataset is None else build(dataset, f"dataloader.{split}.dataset")


def dataset_metadata(cfg: DictConfig, split: str) -> Any:
    """Detectron2's metadata (`thing_classes`, `json_file` …) of a split whose data set has been loaded.

    Empty where the loader's config does not name its data set.
    """
    name = dataset_name(cfg, split)
    return Metadata() if name is None else MetadataCatalog.get(name)


def instantiate_loader(node: DictConfig, key: str) -> Any:
    """The loader that `dataloader.<split>` describes; its mapper's failures name the file and the image id."""
    if node.get("mapper") is not None:
        node = copy.deepcopy(node)
        node.mapper = NamedFailures(build(node.mapper, f"{key}.mapper"))
    loader = build(node, key)
    if isinstance(loader, DataLoader):
        set_up_workers(loader)
    return loader


def build_evaluator(cfg: DictConfig, split: str, output_dir: Path) -> DatasetEvaluator:
    """`dataloader.evaluator` for a split; several of them as `DatasetEvaluators(evaluators=[…])`.

    The `output_dir` of each is `output_dir`, and its `dataset_name` the split's own where it is unset or another
    split's. An evaluator that has no such arguments is left as it is.
    """
    node = copy.deepcopy(cfg.dataloader.evaluator)
    name_evaluated_data(cfg, node, dataset_name(cfg, split))
    for one in evaluator_nodes(node):
        if accepts(one, "output_dir"):
            with open_dict(one):
                one.output_dir = str(output_dir)
    return build(node, "dataloader.evaluator")
