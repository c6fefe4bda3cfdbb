"""RMSProp with the study's settings; the grid gives the learning rate."""

from ...common.optim import RMSprop as optimizer
from .base import data, dataloader, lr_multiplier, model, train

optimizer.lr = None
