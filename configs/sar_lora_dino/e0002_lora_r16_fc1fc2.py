"""E0002, the main method: LoRA of rank 16 on both MLP layers of every block of the frozen DINOv3 ConvNeXt-S."""

from .base import data, dataloader, lora_fc1fc2, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = lora_fc1fc2
train.output_dir = "work_dirs/E0002_full_seed${train.seed}"
