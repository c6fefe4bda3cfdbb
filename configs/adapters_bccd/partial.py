"""The last stage of the backbone trains, the others are frozen."""

from ..common.backbones import atto_frozen
from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = atto_frozen
model.backbone.bottom_up.unfreeze = ["stages_3"]
