"""The splits of a config's data by name, and which of them its evaluator is of."""

import inspect
from collections.abc import Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError

from loradet.errors import UserError


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
        raise UserError(f"{split!r} is not an evaluation split of the config; it has: {', '.join(loaders) or 'none'}.")


def split_config(cfg: DictConfig, split: str) -> DictConfig:
    """The loader config `dataloader.<split>`.

    Raises:
        ValueError: the config has no such split; those that there are get named.
    """
    if cfg.dataloader.get(split) is None:
        loaders = [k for k in cfg.dataloader if k != "evaluator" and cfg.dataloader[k] is not None]
        raise UserError(f"The config has no dataloader.{split}; it has: {', '.join(loaders) or 'none'}.")
    return cfg.dataloader[split]


def dataset_name(cfg: DictConfig, split: str) -> str | None:
    """Under which a split's data are registered; None where its config does not tell."""
    dataset = split_config(cfg, split).get("dataset")
    if not OmegaConf.is_dict(dataset):
        return None
    # Detectron2's own get_detection_dataset_dicts calls it `names`, our readers `name`.
    return _first(dataset.get("names", dataset.get("name")))


def _first(names: Any) -> str | None:
    return names[0] if OmegaConf.is_list(names) else names


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
        if not accepts(one, "dataset_name"):
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
    names = [dataset_name(cfg, k) for k in ("test", "val", *cfg.dataloader) if OmegaConf.is_dict(cfg.dataloader.get(k))]
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
    return {dataset_name(cfg, split) for split in loaders}


def evaluator_class(node: DictConfig) -> Any:
    """What the config of an evaluator calls."""
    target = node._target_
    return locate(target) if isinstance(target, str) else target


def accepts(node: DictConfig, argument: str) -> bool:
    """Whether what an evaluator's config calls takes an argument of this name."""
    return argument in inspect.signature(evaluator_class(node)).parameters


def evaluation_mapper(cfg: DictConfig) -> DictConfig:
    """The mapper of `dataloader.val`, else of `dataloader.test`.

    Raises:
        ValueError: the config has neither.
    """
    for split in ("val", "test"):
        loader = (cfg.get("dataloader") or {}).get(split)
        if loader is not None and loader.get("mapper") is not None:
            return loader.mapper
    raise UserError("The config has neither dataloader.val.mapper nor dataloader.test.mapper to read images by.")
