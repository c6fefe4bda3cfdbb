"""E0013: rank 8 on the second MLP layer."""

from .e0004_lora_r16_fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.rank, model.backbone.bottom_up.alpha = 8, 16.0
train.output_dir = "work_dirs/E0013_full"
