"""A config's model with loaded weights, and the images of a split to run it on."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import build_detection_test_loader
from omegaconf import DictConfig
from torch import nn

from loradet.config.build import build
from loradet.config.device import choose_device
from loradet.config.intensity import check_images, with_intensity_of
from loradet.config.splits import split_config
from loradet.datasets.data_processes import set_up_workers
from loradet.datasets.images.intensity import Intensity
from loradet.datasets.images.reading import read_image
from loradet.datasets.loader import NamedFailures
from loradet.datasets.mapper import intensity_of
from loradet.datasets.readers.records import column
from loradet.datasets.subset import choose_ids
from loradet.errors import UserError
from loradet.evaluation.class_order import order_of, with_class_order
from loradet.evaluation.split_loop import dataset_metadata
from loradet.model import load_detector
from loradet.weight_classes import read_weight_classes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedSplit:
    """What pictures are made of.

    Attributes:
        model: with the checkpoint's weights, on the config's device.
        records: Detectron2's records, those of the subset where one was asked for.
        mapper: turns a record into the model's input; where it fails, SampleError names the image.
        metadata: Detectron2's metadata of the data set.
        synthetic: whether the annotation file says so.
        loader: the config of the split's loader.
    """

    model: nn.Module
    records: list[dict[str, Any]]
    mapper: Any
    metadata: Any
    synthetic: bool
    loader: DictConfig

    @property
    def class_names(self) -> list[str]:
        """Names by contiguous id."""
        return list(self.metadata.thing_classes)

    @property
    def origin(self) -> str:
        """What a heading adds about the images: ", synthetic images", or nothing."""
        return origin(self.synthetic)

    @property
    def intensity(self) -> Intensity:
        """The rule that the images are read by, for painting too."""
        return intensity_of(self.mapper.mapper)

    def read(self, record: dict[str, Any]) -> np.ndarray:
        """The image of a record for painting, RGB (H, W, 3) uint8, as the mapper reads it."""
        return read_image(record["file_name"], "RGB", self.intensity)

    def batches(self) -> Any:
        """Batches of what the mapper makes of the records, in order, as the split's own loader gives them."""
        loader = build_detection_test_loader(
            self.records,
            mapper=self.mapper,
            batch_size=self.loader.get("batch_size", 1),
            num_workers=self.loader.get("num_workers", 0),
        )
        set_up_workers(loader)
        return loader


def origin(synthetic: bool) -> str:
    """What headings and titles add about the images."""
    return ", synthetic images" if synthetic else ""


def load_split(
    cfg: DictConfig,
    checkpoint: str | os.PathLike,
    split: str,
    *,
    subset: int | None = None,
    subset_seed: int = 0,
) -> LoadedSplit:
    """Load the data of a split, then build the config's model and load a checkpoint or an adapter file.

    Args:
        checkpoint: `.pth`, merged or not, or an adapter's `.safetensors`.
        split: as in `dataloader.<split>`.
        subset: as many images, see `choose_subset`; None for all.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: no such split, or a checkpoint of another model.
    """
    cfg = with_intensity_of(cfg, checkpoint)
    loader = split_config(cfg, split)
    records = build(loader.dataset, f"dataloader.{split}.dataset")  # before the model: it registers the class names
    weights = read_weight_classes(checkpoint)
    if order_of(weights, dataset_metadata(cfg, split), checkpoint):
        cfg = with_class_order(cfg, weights.names)
        loader = split_config(cfg, split)
        records = build(loader.dataset, f"dataloader.{split}.dataset")
    if subset is not None:
        records = choose_subset(records, subset, subset_seed)
    check_images(cfg, split, records)
    metadata = dataset_metadata(cfg, split)
    device = choose_device(cfg.train.get("device", "auto"))
    model = load_detector(cfg, checkpoint, device=device, metadata=metadata)
    mapper = NamedFailures(build(loader.mapper, f"dataloader.{split}.mapper"))
    return LoadedSplit(model, list(records), mapper, metadata, bool(metadata.get("synthetic")), loader)


def choose_subset(records: Sequence[dict[str, Any]], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` records by a hash of (seed, image id), in their order: the same images for every model and machine.

    All of them, with a warning, where there are fewer.

    Raises:
        ValueError: `count` is not positive.
    """
    if count < 1:
        raise UserError(f"A subset of {count} images: expected 1 or more.")
    if len(records) < count:
        logger.warning("A subset of %d images was asked for; the split has %d: all are taken.", count, len(records))
    chosen = choose_ids(column(records, "image_id"), count, seed)
    return [record for record in records if record["image_id"] in chosen]


def choose_records(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` records spread evenly over those with annotations (over all where these are too few).

    Raises:
        ValueError: there are no records, or `count` is not positive.
    """
    if count < 1 or not records:
        raise UserError(f"{count} images asked for, of {len(records)}: nothing to paint.")
    annotated = [record for record in records if record.get("annotations")]
    return spread(annotated if len(annotated) >= count else records, count)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items (all, where there are fewer) at even distances, the first and the last among them."""
    positions = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[position] for position in positions]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)  # frozen parts remember what was asked for
        for module, mode in modes:
            module.training = mode
