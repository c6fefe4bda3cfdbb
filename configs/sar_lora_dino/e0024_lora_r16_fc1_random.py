"""E0024: LoRA on the first MLP layer of a frozen backbone of random weights."""

from .e0021_lora_r16_fc1 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.module.pretrained = False
train.allow_random_frozen = True
train.output_dir = "work_dirs/E0024_full"
