"""Counts what a config's model costs, without its data set and without any weights."""

from omegaconf import DictConfig

from loradet.config.build import build
from loradet.config.edits import without_weights
from loradet.config.splits import evaluation_mapper
from loradet.evaluation.efficiency import ModelStatistics, model_statistics
from loradet.export.resizing import Resizing
from loradet.model import build_model


def count_config(cfg: DictConfig, input_size: tuple[int, int] | None = None) -> ModelStatistics:
    """Build a config's model with random weights and count its parameters and operations.

    Args:
        cfg: with `model`, and a test mapper where no size is given.
        input_size: (height, width) in pixels; by default the largest test image of the config.

    Raises:
        FileNotFoundError: the number of classes is in a file that is not there.
        ValueError: the config does not tell the input size.
    """
    if input_size is None:
        augmentations = build(evaluation_mapper(cfg), "The mapper").augmentations.augs
        input_size = Resizing.from_augmentations(augmentations).input_size()
    return model_statistics(build_model(without_weights(cfg.model)), input_size)
