"""E0022: LoRA on a frozen backbone of random weights."""

from .e0002_lora_r16_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.module.pretrained = False
train.allow_random_frozen = True
train.output_dir = "work_dirs/E0022_full"
