"""E0018: rank 8 on the second MLP layer; stage 3 trains too, except its wrapped layers."""

from .e0013_lora_r8_fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.unfreeze = ["stages_3"]
train.output_dir = "work_dirs/E0018_full"
