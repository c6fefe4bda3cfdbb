"""Batches of 16."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

data.total_batch_size = 16
train.output_dir = "work_dirs/ofat_lr0.001_bs16_adamw_ep100"
