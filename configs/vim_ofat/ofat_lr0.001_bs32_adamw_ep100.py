"""Batches of 32."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

data.total_batch_size = 32
train.output_dir = "work_dirs/ofat_lr0.001_bs32_adamw_ep100"
