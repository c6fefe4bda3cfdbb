"""E0007: stage 3 trains too, except its wrapped layers, which freeze_base=True keeps frozen."""

from .e0002_lora_r16_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.unfreeze = ["stages_3"]
train.output_dir = "work_dirs/E0007_full"
