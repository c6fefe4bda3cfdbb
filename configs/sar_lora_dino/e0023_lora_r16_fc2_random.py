"""E0023: LoRA on the second MLP layer of a frozen backbone of random weights."""

from .e0004_lora_r16_fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.module.pretrained = False
train.allow_random_frozen = True
train.output_dir = "work_dirs/E0023_full"
