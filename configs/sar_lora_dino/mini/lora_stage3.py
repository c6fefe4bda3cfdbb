"""LoRA of rank 16 on fc1 and fc2; stage 3 trains too, except the layers that LoRA wraps."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.module.unfreeze = ["stages_3"]
