"""The training step of a config for benchmarks: without a run folder, on the config's images or on random ones."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig

from loradet.config.device import choose_device
from loradet.errors import UserError
from loradet.evaluation.split_loop import dataset_metadata
from loradet.event_storage import DeferredStorage
from loradet.model import initial_model
from loradet.training.assemble import build_trainer
from loradet.training.plan import BatchPlan, plan_batch
from loradet.training.prepare import build_loader
from loradet.training.trainer import Trainer

Batch = list[dict[str, Any]]


@dataclass(frozen=True)
class RandomImages:
    """Noise with boxes anywhere, in place of a data set.

    Attributes:
        height, width: in pixels, of every image.
        objects: in every image, all of class 0: what a step costs does not depend on the class.
    """

    height: int
    width: int
    objects: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.objects < 0:
            raise UserError(
                f"Random images of {self.height}×{self.width} pixels with {self.objects} objects: expected sides of at "
                "least 1, and no negative number."
            )

    def loader(self, batch_size: int) -> Iterable[Batch]:
        """Endless batches, the same each time that it is iterated."""
        return _RandomLoader(self, batch_size)


@dataclass(frozen=True)
class _RandomLoader:
    images: RandomImages
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield [self._sample(generator) for _ in range(self.batch_size)]

    def _sample(self, generator: torch.Generator) -> dict[str, Any]:
        size = (self.images.height, self.images.width)
        corners = torch.rand(2, self.images.objects, 2, generator=generator) * torch.tensor(size[::-1])
        boxes = torch.cat([corners.amin(0), corners.amax(0)], dim=1)
        classes = torch.zeros(len(boxes), dtype=torch.int64)
        return {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
            "height": size[0],
            "width": size[1],
            "instances": Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes),
        }


def batch_plan(cfg: DictConfig) -> BatchPlan:
    """How one process spreads the images of a step over micro-batches."""
    return plan_batch(cfg.dataloader.train.total_batch_size, 1, cfg.train.accumulate, cfg.train.max_batch_per_gpu)


def training_loader(cfg: DictConfig, images: RandomImages | None = None) -> Iterable[Batch]:
    """Endless micro-batches: of the config's training loader, or random ones."""
    plan = batch_plan(cfg)
    return build_loader(cfg, plan) if images is None else images.loader(plan.per_forward)


class TrainingStep:
    """A config's model, optimizer and trainer.

    Attributes:
        trainer: without hooks.
        images: of a step.
    """

    def __init__(self, cfg: DictConfig, loader: Iterable[Batch]):
        """
        Args:
            cfg: complete.
            loader: of micro-batches, for steps that are not given theirs.
        """
        plan = batch_plan(cfg)
        model = initial_model(cfg, device=choose_device(cfg.train.device), metadata=dataset_metadata(cfg, "train"))
        self.trainer: Trainer = build_trainer(cfg, model, loader, plan, Path(tempfile.gettempdir()))
        self.trainer.storage = DeferredStorage()
        self.images = plan.total

    def prepare(self, steps: int) -> list[Batch]:
        """The images of as many steps, read beforehand."""
        with self.trainer.stream() as stream:
            batches = list(itertools.islice(stream, steps * self.trainer.accumulate))
        return [list(itertools.chain.from_iterable(part)) for part in _chunks(batches, self.trainer.accumulate)]

    def micro_batches(self, images: Batch) -> list[Batch]:
        """The images of a step, divided as the config says."""
        return _chunks(images, len(images) // self.trainer.accumulate)

    def run(self) -> None:
        """An optimizer step; the trainer's stream must be open."""
        with self.trainer.storage as storage:
            self.trainer.run_step()
            storage.step()
        self.trainer.iter += 1

    def run_on(self, images: Batch) -> None:
        """An optimizer step on these images."""
        with self.trainer.stream(self.micro_batches(images)):
            self.run()

    def run_bare(self, images: Batch) -> None:
        """The same on the same modules and optimizer, as a plain PyTorch loop: no clipping, logging or EMA.

        It computes in the trainer's type, but has no scaler, which fp16 needs.
        """
        trainer, batches = self.trainer, self.micro_batches(images)
        trainer.optimizer.zero_grad(set_to_none=True)
        with trainer.storage:
            for batch in batches:
                with torch.autocast(
                    trainer.device.type, dtype=trainer.amp_dtype, enabled=trainer.amp_dtype is not None
                ):
                    losses = trainer.model(batch)
                (sum(losses.values()) / len(batches)).backward()
        trainer.optimizer.step()


def _chunks(values: Sequence[Any], size: int) -> list[list[Any]]:
    return [list(values[i : i + size]) for i in range(0, len(values), size)]
