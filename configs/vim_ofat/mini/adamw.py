"""AdamW with the study's settings; the grid gives the learning rate."""

from ...common.optim import AdamW as optimizer
from .base import data, dataloader, lr_multiplier, model, train

optimizer.lr = None
optimizer.weight_decay = 0.1
