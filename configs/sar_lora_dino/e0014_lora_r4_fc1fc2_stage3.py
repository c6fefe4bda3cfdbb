"""E0014: rank 4; stage 3 trains too, except its wrapped layers."""

from .e0005_lora_r4_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.unfreeze = ["stages_3"]
train.output_dir = "work_dirs/E0014_full"
