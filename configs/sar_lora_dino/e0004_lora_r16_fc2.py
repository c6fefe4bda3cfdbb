"""E0004: LoRA on the second MLP layer alone."""

from .e0002_lora_r16_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.targets = ["mlp.fc2"]
train.output_dir = "work_dirs/E0004_full"
