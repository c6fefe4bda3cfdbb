"""The anchors of a config's detector, its matcher and its resize, read without building the model."""

from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from loradet.datasets.checks.anchors import AnchorLevel, AnchorRule, Resize
from loradet.errors import UserError


def anchor_rule(cfg: DictConfig) -> AnchorRule | None:
    """What the boxes of a training meet; None where the detector has no anchors, as DETR and FCOS.

    Built are the anchor generator and the matcher alone, of a RetinaNet or of the proposal network of an R-CNN.

    Raises:
        UserError: an anchor generator or a matcher that does not work as Detectron2's.
    """
    if "model" not in cfg or "dataloader" not in cfg:
        raise UserError("The config has no model and dataloader: give one that trains a detector.")
    node = _with_anchors(cfg.model)
    if node is None:
        return None
    matcher = instantiate(node.anchor_matcher)
    labels, thresholds = list(matcher.labels), list(matcher.thresholds)
    if 1 not in labels:
        raise UserError(f"model: the labels of anchor_matcher are {labels}. Expected one that is 1, for a match.")
    return AnchorRule(
        levels=_levels(instantiate(node.anchor_generator)),
        threshold=float(thresholds[labels.index(1)]),
        low_quality=bool(matcher.allow_low_quality_matches),
        resize=_resize(cfg),
    )


def _with_anchors(model: Any) -> Any:
    """The part of a model that has both anchors and their matcher."""
    for part in (model, model.get("proposal_generator")):
        if isinstance(part, DictConfig) and part.get("anchor_generator") and part.get("anchor_matcher"):
            return part
    return None


def _levels(generator: torch.nn.Module) -> list[AnchorLevel]:
    # From maps of 2 x 2 positions the first anchors and the strides are seen, whatever the generator is.
    count = len(generator.num_anchors)
    maps = [torch.zeros(1, 1, 2, 2) for _ in range(count)]
    levels = []
    for boxes, number in zip(generator(maps), generator.num_anchors):
        grid = boxes.tensor.double().reshape(2, 2, number, -1).numpy()
        if grid.shape[-1] != 4:
            raise UserError("model: the anchors are not upright boxes, which the check of anchors takes alone.")
        stride = grid[0, 1, 0, 0] - grid[0, 0, 0, 0], grid[1, 0, 0, 1] - grid[0, 0, 0, 1]
        levels.append(AnchorLevel((float(stride[0]), float(stride[1])), grid[0, 0]))
    return levels


def _resize(cfg: DictConfig) -> Resize:
    """The first augmentation of the training mapper that resizes; others, as crops of random size, are left out.

    Of `ResizeScale` the size at factor 1.
    """
    for node in cfg.dataloader.train.mapper.get("augmentations") or ():
        target = getattr(node.get("_target_"), "__name__", str(node.get("_target_"))).rpartition(".")[2]
        if target == "Resize":
            shape = node.shape
            return Resize(shape=(shape, shape) if isinstance(shape, int) else (int(shape[0]), int(shape[1])))
        if target == "ResizeShortestEdge":
            lengths = node.short_edge_length
            lengths = OmegaConf.create(instantiate(lengths)) if isinstance(lengths, DictConfig) else lengths
            drawn = sorted({int(length) for length in (lengths if isinstance(lengths, ListConfig) else [lengths])})
            # Of many the ends and the middle: what none of these reaches is small or long at all of them.
            if len(drawn) > 3:
                drawn = [drawn[0], drawn[len(drawn) // 2], drawn[-1]]
            return Resize(tuple(drawn), float(node.get("max_size") or np.inf))
        if target == "ResizeScale":
            edge = min(int(node.target_height), int(node.target_width))
            return Resize((edge,), edge)
    return Resize()
