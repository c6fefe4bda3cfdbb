"""E0003, the control: the frozen backbone as it is; neck and head train."""

from .base import data, dataloader, linear_probe, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = linear_probe
train.output_dir = "work_dirs/E0003_full_seed${train.seed}"
