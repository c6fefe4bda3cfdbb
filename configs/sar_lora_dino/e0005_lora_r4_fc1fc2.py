"""E0005: rank 4."""

from .e0002_lora_r16_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.rank, model.backbone.bottom_up.alpha = 4, 8.0
train.output_dir = "work_dirs/E0005_full"
