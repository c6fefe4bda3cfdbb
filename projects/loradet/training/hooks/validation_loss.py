"""Losses on a validation split, which leave the training as it was."""

import contextlib
import copy
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, open_dict
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader, Dataset

from loradet.config.build import build
from loradet.config.splits import accepts, split_config
from loradet.datasets.data_processes import set_up_workers
from loradet.datasets.loader import NamedFailures, seeded
from loradet.evaluation.split import Split
from loradet.training.checkpoints.state import RankState

logger = logging.getLogger(__name__)

# Parts of two-stage detectors that give losses where they are in training mode.
_LOSS_PARTS = ("proposal_generator", "roi_heads")


class ValidationLoss:
    """Measures the losses of a model on a split's images, as the training defines them.

    Weights are those that the model has; dropout is off, norms use their running statistics, nothing is augmented.
    Random generators, running statistics and RetinaNet's running normalizer are afterwards what they were. Losses are
    means over images; with several processes up to one image less than there are processes counts twice.

    Args:
        records: Detectron2's, with annotations.
        mapper: makes an input with `instances` of a record.
        batch_size: images a batch on a process, those of the training: its normalizer is of as many.
        num_workers: data processes.
    """

    def __init__(self, records: Sequence[dict[str, Any]], mapper: Any, *, batch_size: int, num_workers: int = 0):
        world_size = comm.get_world_size()
        # As many batches on every process, since losses may be exchanged between them.
        count = -(-len(records) // world_size) * world_size
        own = [index % len(records) for index in range(comm.get_rank(), count, world_size)]
        self.batch_size = batch_size
        self._loader = DataLoader(
            _Mapped(records, own, mapper),
            batch_size=batch_size,
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator().manual_seed(0),
        )
        set_up_workers(self._loader)
        self._is_off = False

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Losses by name, and their sum as `total_loss`; {} where the model gives none. All processes must call it.

        Args:
            model: without a DDP wrapper; takes a batch (list of dicts), and returns a dict of scalar losses in
                training mode.
        """
        if self._is_off:
            return {}
        state = RankState.of(model)
        try:
            with losses_in_eval_mode(model), EventStorage(), torch.no_grad(), torch.jit.optimized_execution(False):
                found = self._sums(model)
        finally:
            state.restore(model)
        parts = comm.all_gather(found)
        if any(part is None for part in parts):
            self._is_off = True
            logger.warning("%s gives no losses in evaluation: no validation loss.", type(model).__name__)
            return {}
        images = sum(count for _, count in parts)
        means = {name: sum(sums[name] for sums, _ in parts) / images for name in parts[0][0]}
        return {"total_loss": sum(means.values()), **means}

    def _sums(self, model: nn.Module) -> tuple[dict[str, float], int] | None:
        """Losses of this process, times images, and its images; None where there are no losses."""
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)  # two-stage detectors draw their samples
        normalized = {
            module: module.loss_normalizer for module in model.modules() if hasattr(module, "loss_normalizer")
        }
        sums: dict[str, float] = {}
        images = 0
        for batch in self._loader:
            for module, value in normalized.items():
                # Of as many boxes as a training batch has; here it is set anew, so that no batch moves another's.
                module.loss_normalizer = value * len(batch) / self.batch_size
            losses = model(batch)
            for module in model.modules():
                # Detectron2's own makes it in its first training step.
                if hasattr(module, "loss_normalizer") and module not in normalized:
                    del module.loss_normalizer
            if not isinstance(losses, dict) or not losses:
                return None
            images += len(batch)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        return sums, images


class _Mapped(Dataset):
    def __init__(self, records: Sequence[dict[str, Any]], indices: Sequence[int], mapper: Any):
        self.records = records
        self.indices = indices
        self.mapper = NamedFailures(mapper)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict[str, Any]:
        index = self.indices[place]
        with seeded(0, index):
            return self.mapper(copy.deepcopy(self.records[index]))


@contextlib.contextmanager
def losses_in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block a detector gives losses, with all its layers in eval mode; afterwards it is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    was_training = model.training
    model.eval()
    parts = [part for name in _LOSS_PARTS if isinstance(part := getattr(model, name, None), nn.Module)]
    for module in (model, *(below for part in parts for below in part.modules())):
        if not isinstance(module, _NormBase | _DropoutNd):
            module.training = True
    try:
        yield
    finally:
        model.train(was_training)  # frozen parts remember what was asked for
        for module, mode in modes:
            module.training = mode


def validation_loss(cfg: DictConfig, split: Split, batch_size: int) -> ValidationLoss | None:
    """What `train.validation_loss` asks for on a split; None, with a line in the log, where it cannot be had.

    Args:
        cfg: with `dataloader` and `train`.
        split: to measure on.
        batch_size: images that a process sees in a forward pass of the training.
    """
    settings, node = cfg.train.validation_loss, split_config(cfg, split.name)
    if not settings.enabled:
        return None
    mapper = node.get("mapper")
    if split.records is None or mapper is None or not ("is_train" in mapper or accepts(mapper, "is_train")):
        logger.warning("No validation loss: dataloader.%s has no mapper that keeps annotations.", split.name)
        return None
    if settings.max_images is not None and len(split.records) > settings.max_images:
        logger.info(
            "No validation loss: %s has %d images, train.validation_loss.max_images is %d.",
            *(split.name, len(split.records), settings.max_images),
        )
        return None
    mapper = copy.deepcopy(mapper)
    with open_dict(mapper):
        mapper.is_train = True
    return ValidationLoss(
        split.records,
        build(mapper, f"dataloader.{split.name}.mapper"),
        batch_size=batch_size,
        num_workers=node.get("num_workers", 0),
    )
