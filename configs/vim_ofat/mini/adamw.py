"""AdamW with the study's settings; the grid changes the learning rate."""

from ...common.optim import AdamW as optimizer
from .base import data, dataloader, lr_multiplier, model, train

optimizer.lr = 1e-3
optimizer.weight_decay = 0.1
