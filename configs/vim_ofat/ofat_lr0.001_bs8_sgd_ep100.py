"""SGD with momentum 0.9 and weight decay 1e-4."""

from ..common.optim import SGD as optimizer
from .base import data, dataloader, lr_multiplier, model, train

optimizer.lr = 1e-3
train.output_dir = "work_dirs/ofat_lr0.001_bs8_sgd_ep100"
