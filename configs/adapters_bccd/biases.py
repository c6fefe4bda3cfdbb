"""The biases of the backbone train, all else of it is frozen (BitFit)."""

from ..common.backbones import atto_frozen
from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = atto_frozen
model.backbone.bottom_up.unfreeze = ["kind:bias"]
