"""Recorded DETR files, and small DETRs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from loradet.detectors.detr import (
    DETR,
    DetrTargets,
    DetrTransformer,
    HungarianMatcher,
    PositionEmbeddingSine,
    SetCriterion,
)

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def read(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Config and arrays of a recorded `.npz`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != "config"}
        return json.loads(str(file["config"])), arrays


def under(arrays: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Arrays below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


class Patches(Backbone):
    """One convolution, in `proj`."""

    def __init__(self, channels: int = 8, stride: int = 16) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=3, stride=stride, padding=1)
        self.shape = ShapeSpec(channels=channels, stride=stride)

    def forward(self, x):
        return {"res5": self.proj(x)}

    def output_shape(self):
        return {"res5": self.shape}


class Nothing(Backbone):
    """A backbone for those who bring features of their own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = ShapeSpec(channels=channels, stride=32)

    def forward(self, x):
        raise AssertionError(f"not meant to be called with {tuple(x.shape)}")

    def output_shape(self):
        return {"res5": self.shape}


def build(backbone: Backbone, config: dict[str, Any], **options: Any) -> DETR:
    """A DETR with the sizes of a recorded config."""
    return DETR(
        backbone=backbone,
        in_feature=next(iter(backbone.output_shape())),
        position_embedding=PositionEmbeddingSine(num_pos_feats=config["hidden_dim"] // 2),
        transformer=DetrTransformer(
            hidden_dim=config["hidden_dim"],
            num_heads=config["nheads"],
            num_encoder_layers=config["enc_layers"],
            num_decoder_layers=config["dec_layers"],
            dim_feedforward=config["dim_feedforward"],
            dropout=config["dropout"],
            pre_norm=config["pre_norm"],
        ),
        criterion=criterion(config),
        num_classes=config["num_classes"],
        num_queries=config["num_queries"],
        pixel_mean=config.get("pixel_mean", MEAN),
        pixel_std=config.get("pixel_std", STD),
        **options,
    )


def criterion(config: dict[str, Any], **weights: float) -> SetCriterion:
    """The losses of a recorded config."""
    matcher = HungarianMatcher(**{name: config[name] for name in ("cost_class", "cost_bbox", "cost_giou")})
    return SetCriterion(matcher=matcher, eos_coef=config["eos_coef"], **weights)


TINY = {
    "hidden_dim": 32,
    "nheads": 4,
    "enc_layers": 1,
    "dec_layers": 2,
    "dim_feedforward": 48,
    "dropout": 0.0,
    "pre_norm": False,
    "num_classes": 3,
    "num_queries": 6,
    "cost_class": 1.0,
    "cost_bbox": 5.0,
    "cost_giou": 2.0,
    "eos_coef": 0.1,
}


def tiny(seed: int = 0, backbone: Backbone | None = None, options: dict[str, Any] | None = None, **config) -> DETR:
    """A small DETR with random weights."""
    torch.manual_seed(seed)
    return build(backbone or Patches(), {**TINY, **config}, **(options or {}))


def image(height: int, width: int, boxes: list[list[float]] = (), classes: list[int] = (), seed: int = 0) -> dict:
    """One input of a detector: noise, with objects."""
    noise = torch.Generator().manual_seed(seed)
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    truth.gt_classes = torch.tensor(classes, dtype=torch.int64)
    pixels = torch.randint(0, 256, (3, height, width), generator=noise, dtype=torch.uint8)
    return {"image": pixels, "instances": truth, "height": height, "width": width}


def targets(arrays: dict[str, torch.Tensor], count: int, prefix: str = "tgt/") -> list[DetrTargets]:
    """Recorded targets of each image."""
    return [DetrTargets(arrays[f"{prefix}{i}/labels"], arrays[f"{prefix}{i}/boxes"]) for i in range(count)]


def layer_names(count: int) -> list[str]:
    """Recorded names of decoder layers, first layer first."""
    return [*(f"aux_{i}" for i in range(count - 1)), "last"]
