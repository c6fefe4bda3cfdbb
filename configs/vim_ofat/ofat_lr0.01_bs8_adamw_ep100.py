"""Learning rate 1e-2."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

optimizer.lr = 1e-2
train.output_dir = "work_dirs/ofat_lr0.01_bs8_adamw_ep100"
