"""The whole backbone is fine-tuned."""

from ..common.backbones import atto
from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = atto
