"""E0021: LoRA on the first MLP layer alone."""

from .e0002_lora_r16_fc1fc2 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.targets = ["mlp.fc1"]
train.output_dir = "work_dirs/E0021_full"
