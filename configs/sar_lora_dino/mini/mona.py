"""Mona behind every block of the frozen backbone, of a width that has as many parameters as LoRA of rank 16."""

from detectron2.config import LazyCall as L

from loradet.adapters import mona

from ...common.backbones import atto_frozen
from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(mona)(module=atto_frozen, rank=54)
