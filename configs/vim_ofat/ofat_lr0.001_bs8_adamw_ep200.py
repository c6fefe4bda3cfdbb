"""200 epochs."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

train.max_iter = "200 epochs"
train.output_dir = "work_dirs/ofat_lr0.001_bs8_adamw_ep200"
