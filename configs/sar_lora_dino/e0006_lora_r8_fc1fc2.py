"""E0006: rank 8."""

from .e0002_lora_r16_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.rank, model.backbone.bottom_up.alpha = 8, 16.0
train.output_dir = "work_dirs/E0006_full"
