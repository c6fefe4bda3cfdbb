"""`train.feature_cache`: gives a run's loaders mappers that know what is kept of the frozen part."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from omegaconf import DictConfig
from torch import nn

from loradet.config.build import build
from loradet.config.splits import split_config
from loradet.datasets.loader import TrainLoader
from loradet.errors import UserError
from loradet.evaluation.split import Split
from loradet.feature_cache.cache import FeatureCache
from loradet.feature_cache.views import SETTING
from loradet.training.hooks.validation_loss import ValidationLoss
from loradet.training.prepare import Prepared
from loradet.training.trainer import Trainer


def cache_training(prepared: Prepared, trainer: Trainer, loss: ValidationLoss | None) -> FeatureCache | None:
    """Let training, evaluation and validation loss of a run use the cache, where its config asks for one.

    Args:
        prepared: the run.
        trainer: with the weights that it goes on with.
        loss: that is measured on the first split, or None.

    Returns:
        What is to be closed at the end of the run; None where nothing is kept.

    Raises:
        UserError: as of `FeatureCache`.
    """
    cfg = prepared.cfg
    if not cfg.train.feature_cache.enabled:
        return None
    loader = prepared.loader
    if not isinstance(loader, TrainLoader):
        raise UserError(
            f"{SETTING}: dataloader.train makes a {type(loader).__name__}, whose views are unknown; expected "
            "loradet.datasets.loader.build_train_loader."
        )
    cache = _cache(cfg, trainer.module)
    cache.add("dataloader.train", loader.records, loader.mapper, autocast=trainer.amp_dtype)
    for split in prepared.splits.values():
        _add(cache, cfg, split)
    cache.open()
    loader.mapper = cache.mapper("dataloader.train", loader.mapper)
    _use(cache, prepared.splits.values())
    if loss is not None:
        first = next(iter(prepared.splits.values()))
        loss.wrap_mapper(lambda mapper: cache.mapper(f"dataloader.{first.name}", mapper))
    return cache


@contextmanager
def cache_evaluation(cfg: DictConfig, model: nn.Module, splits: Sequence[Split]) -> Iterator[None]:
    """The same for the evaluations in a block, without training; they keep on the disk alone: nothing comes after them.

    Args:
        cfg: with `train.feature_cache`.
        model: with its weights, in eval mode.
        splits: to evaluate on.
    """
    if not cfg.train.feature_cache.enabled or cfg.train.feature_cache.where != "disk":
        yield
        return
    cache = _cache(cfg, model)
    for split in splits:
        _add(cache, cfg, split)
    cache.open()
    _use(cache, splits)
    try:
        yield
    finally:
        cache.close()


def _cache(cfg: DictConfig, model: nn.Module) -> FeatureCache:
    settings = cfg.train.feature_cache
    return FeatureCache(
        model, where=settings.where, folder=settings.folder, dtype=settings.dtype, max_gb=settings.max_gb
    )


def _add(cache: FeatureCache, cfg: DictConfig, split: Split) -> None:
    key = f"dataloader.{split.name}"
    node = split_config(cfg, split.name)
    if split.records is None or node.get("mapper") is None:
        raise UserError(f"{SETTING}: {key} does not tell its data set and mapper, so that views are unknown.")
    cache.add(key, split.records, build(node.mapper, f"{key}.mapper"))


def _use(cache: FeatureCache, splits: Iterable[Split]) -> None:
    for split in splits:
        split.wrap_mapper = lambda mapper, key=f"dataloader.{split.name}": cache.mapper(key, mapper)
