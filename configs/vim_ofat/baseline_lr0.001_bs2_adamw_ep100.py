"""The baseline as the study ran it on 8 GB: batch 2, 63,600 iterations."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

data.total_batch_size = 2
train.output_dir = "work_dirs/ofat_baseline_lr0.001_bs2_adamw_ep100"
