"""The baseline: learning rate 1e-3, batch 8, AdamW, 100 epochs."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "work_dirs/ofat_baseline_lr0.001_bs8_adamw_ep100"
