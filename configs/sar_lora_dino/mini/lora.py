"""LoRA on the frozen backbone; the study's grid gives rank, alpha and targets."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(rank=None, alpha=None, targets=None)
