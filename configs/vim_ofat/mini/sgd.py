"""SGD with the study's settings; the grid changes the learning rate."""

from ...common.optim import SGD as optimizer
from .base import data, dataloader, lr_multiplier, model, train

optimizer.lr = 1e-3
