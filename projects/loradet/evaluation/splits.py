"""Evaluates one split of a config's data."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError
from torch import nn

from loradet.datasets.loader import NamedFailures

PREDICTIONS = "coco_instances_results.json"


def evaluation_splits(cfg: DictConfig) -> list[str]:
    """`train.eval_splits`, or Detectron2's own "test" where the config has only that; [] without any loader.

    Raises:
        ValueError: a split that the config has no loader for.
    """
    splits = list(cfg.train.eval_splits)
    if splits == ["val"] and cfg.dataloader.get("val") is None:
        return ["test"] if cfg.dataloader.get("test") is not None else []
    for split in splits:
        check_evaluation_split(cfg, split)
    return splits


def check_evaluation_split(cfg: DictConfig, split: str) -> None:
    """Raise ValueError where `dataloader.<split>` is not a loader to evaluate on; those that are get named."""
    loaders = [k for k in cfg.dataloader if k not in ("train", "evaluator") and cfg.dataloader[k] is not None]
    if split not in loaders:
        raise ValueError(f"{split!r} is not an evaluation split of the config; it has: {', '.join(loaders) or 'none'}.")


def split_config(cfg: DictConfig, split: str) -> DictConfig:
    """The loader config `dataloader.<split>`.

    Raises:
        ValueError: the config has no such split; those that there are get named.
    """
    if cfg.dataloader.get(split) is None:
        loaders = [k for k in cfg.dataloader if k != "evaluator" and cfg.dataloader[k] is not None]
        raise ValueError(f"The config has no dataloader.{split}; it has: {', '.join(loaders) or 'none'}.")
    return cfg.dataloader[split]


def load_dataset(cfg: DictConfig, split: str) -> Sequence[dict] | None:
    """The data set of a split, which registers what it is; None where the loader's config does not tell it."""
    dataset = split_config(cfg, split).get("dataset")
    return None if dataset is None else instantiate(dataset)


def dataset_metadata(cfg: DictConfig, split: str) -> Any:
    """Detectron2's metadata (`thing_classes`, `json_file` …) of a split whose data set has been loaded.

    Empty where the loader's config does not name its data set.
    """
    name = _dataset_name(cfg, split)
    return Metadata() if name is None else MetadataCatalog.get(name)


def _dataset_name(cfg: DictConfig, split: str) -> str | None:
    dataset = split_config(cfg, split).get("dataset")
    if not OmegaConf.is_dict(dataset):
        return None
    # Detectron2's own get_detection_dataset_dicts calls it `names`, our readers `name`.
    return _first(dataset.get("names", dataset.get("name")))


def _first(names: Any) -> str | None:
    return names[0] if OmegaConf.is_list(names) else names


def instantiate_loader(node: DictConfig) -> Any:
    """The loader of a config; its mapper's failures name the file and the image id."""
    if node.get("mapper") is not None:
        node = copy.deepcopy(node)
        node.mapper = NamedFailures(instantiate(node.mapper))
    return instantiate(node)


def build_evaluator(cfg: DictConfig, split: str, output_dir: Path) -> DatasetEvaluator:
    """`dataloader.evaluator` for a split; several of them as `DatasetEvaluators(evaluators=[…])`.

    The `output_dir` of each is `output_dir`, and its `dataset_name` the split's own where it is unset or another
    split's. An evaluator that has no such arguments is left as it is.
    """
    node = copy.deepcopy(cfg.dataloader.evaluator)
    name_evaluated_data(cfg, node, _dataset_name(cfg, split))
    for one in evaluator_nodes(node):
        if _accepts(one, "output_dir"):
            with open_dict(one):
                one.output_dir = str(output_dir)
    return instantiate(node)


def name_evaluated_data(cfg: DictConfig, node: DictConfig, name: str | None, *, unnamed_only: bool = False) -> None:
    """Set `dataset_name` of an evaluator's config, and of all that it is made of, in place.

    Args:
        cfg: the config that `node` is from.
        node: as `cfg.dataloader.evaluator`, or a copy of it.
        name: what to set; None leaves all as it is.
        unnamed_only: where nothing is set, or a reference to a split that the config does not have; else also where
            one of the config's own splits is named. What names other data always stays.
    """
    if name is None:
        return
    own = _dataset_names(cfg)
    for one in evaluator_nodes(node):
        if not _accepts(one, "dataset_name"):
            continue
        named = _evaluated_data(one)
        if named is None or (not unnamed_only and named in own):
            with open_dict(one):
                one.dataset_name = name


def fill_in_evaluated_data(cfg: DictConfig) -> None:
    """Let every evaluator of a config name a data set, in place: that of the config's first evaluation split.

    Which split it names does not matter to `build_evaluator`. But Detectron2 cannot save a config that holds `???`, or
    a reference to a split that was taken out of it.
    """
    if OmegaConf.select(cfg, "dataloader.evaluator", throw_on_missing=False) is None:
        return
    names = [
        _dataset_name(cfg, k) for k in ("test", "val", *cfg.dataloader) if OmegaConf.is_dict(cfg.dataloader.get(k))
    ]
    name_evaluated_data(cfg, cfg.dataloader.evaluator, next((n for n in names if n), None), unnamed_only=True)


def _evaluated_data(node: DictConfig) -> str | None:
    """What the config of an evaluator says to be evaluated on; None where that leads nowhere."""
    if "dataset_name" not in node or OmegaConf.is_missing(node, "dataset_name"):
        return None
    try:
        return _first(node.dataset_name)
    except InterpolationResolutionError:
        return None


def evaluator_nodes(node: DictConfig) -> Iterator[DictConfig]:
    """The config of an evaluator, or those of all that it is made of, however deep."""
    inner = node.get("evaluators")
    if inner is None:
        yield node
        return
    for one in inner:
        yield from evaluator_nodes(one)


def _dataset_names(cfg: DictConfig) -> set[str | None]:
    loaders = [k for k in cfg.dataloader if k != "evaluator" and OmegaConf.is_dict(cfg.dataloader.get(k))]
    return {_dataset_name(cfg, split) for split in loaders}


def evaluator_class(node: DictConfig) -> Any:
    """What the config of an evaluator calls."""
    target = node._target_
    return locate(target) if isinstance(target, str) else target


def _accepts(node: DictConfig, argument: str) -> bool:
    return argument in inspect.signature(evaluator_class(node)).parameters


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
    check_evaluation_split(cfg, split)
    # The loader first: its data set registers the name that the evaluator asks for.
    loader = instantiate_loader(split_config(cfg, split))
    evaluator = build_evaluator(cfg, split, output_dir / "predictions" / split)
    results = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results or {}
