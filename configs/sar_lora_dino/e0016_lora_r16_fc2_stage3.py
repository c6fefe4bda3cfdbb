"""E0016: LoRA on the second MLP layer; stage 3 trains too, except its wrapped layers."""

from .e0004_lora_r16_fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.unfreeze = ["stages_3"]
train.output_dir = "work_dirs/E0016_full"
