"""The frozen backbone as it is."""

from ..common.backbones import atto_frozen
from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = atto_frozen
