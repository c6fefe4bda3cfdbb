"""Learning rate 5e-3."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

optimizer.lr = 5e-3
train.output_dir = "work_dirs/ofat_lr0.005_bs8_adamw_ep100"
