"""LoRA of rank 16 on fc1 and fc2 of the frozen backbone, and its variants by override."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.variant = "lora"
