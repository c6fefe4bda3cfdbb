"""E0017: rank 4 on the second MLP layer; stage 3 trains too, except its wrapped layers."""

from .e0012_lora_r4_fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.unfreeze = ["stages_3"]
train.output_dir = "work_dirs/E0017_full"
