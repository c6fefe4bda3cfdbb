"""RMSProp with smoothing 0.99 and weight decay 1e-4."""

from ..common.optim import RMSprop as optimizer
from .base import data, dataloader, lr_multiplier, model, train

train.output_dir = "work_dirs/ofat_lr0.001_bs8_rmsprop_ep100"
