"""E0012: rank 4 on the second MLP layer."""

from .e0004_lora_r16_fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.rank, model.backbone.bottom_up.alpha = 4, 8.0
train.output_dir = "work_dirs/E0012_full"
