"""E0019: the whole DINOv3 ConvNeXt-S is fine-tuned."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

train.output_dir = "work_dirs/E0019_full"
