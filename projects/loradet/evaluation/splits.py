"""Evaluates one split of a config's data."""

import copy
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

PREDICTIONS = "coco_instances_results.json"


def evaluation_splits(cfg: DictConfig) -> list[str]:
    """`train.eval_splits`, or Detectron2's own "test" where the config has only that; [] without any loader."""
    splits = list(cfg.train.eval_splits)
    if splits == ["val"] and cfg.dataloader.get("val") is None:
        return ["test"] if cfg.dataloader.get("test") is not None else []
    return splits


def split_config(cfg: DictConfig, split: str) -> DictConfig:
    """The loader config `dataloader.<split>`.

    Raises:
        ValueError: the config has no such split; those that there are get named.
    """
    if cfg.dataloader.get(split) is None:
        loaders = [k for k in cfg.dataloader if k not in ("train", "evaluator") and cfg.dataloader[k] is not None]
        raise ValueError(f"The config has no dataloader.{split}; its evaluation splits are: {', '.join(loaders)}.")
    return cfg.dataloader[split]


def dataset_metadata(cfg: DictConfig, split: str) -> Any:
    """Detectron2's metadata (`thing_classes`, `json_file` …) of a split whose data set has been loaded."""
    return MetadataCatalog.get(_dataset_name(cfg, split))


def _dataset_name(cfg: DictConfig, split: str) -> str:
    dataset = split_config(cfg, split).dataset
    # Detectron2's own get_detection_dataset_dicts calls it `names`, our readers `name`.
    return dataset.names if "names" in dataset else dataset.name


def build_evaluator(cfg: DictConfig, split: str, output_dir: Path) -> DatasetEvaluator:
    """`dataloader.evaluator` for a split: its `dataset_name` and `output_dir` are filled in where they are unset."""
    node = copy.deepcopy(cfg.dataloader.evaluator)
    with open_dict(node):
        if "dataset_name" not in node or OmegaConf.is_missing(node, "dataset_name"):
            node.dataset_name = _dataset_name(cfg, split)
        if node.get("output_dir") is None:
            node.output_dir = str(output_dir)
    return instantiate(node)


def evaluate_split(cfg: DictConfig, model: nn.Module, split: str, output_dir: Path) -> dict[str, Any]:
    """Run the model over a split, on all processes.

    Args:
        cfg: with `dataloader.<split>` and `dataloader.evaluator`.
        model: without a DDP wrapper.
        split: as "val".
        output_dir: `coco_instances_results.json` goes into `<output_dir>/predictions/<split>/`.

    Returns:
        Detectron2's nested results, percent ({"bbox": {"AP": …}}); empty on processes other than the main one.
    """
    # The loader first: its data set registers the name that the evaluator asks for.
    loader = instantiate(split_config(cfg, split))
    evaluator = build_evaluator(cfg, split, output_dir / "predictions" / split)
    results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results or {}
