"""LoRA on the frozen backbone, of rank 16 on fc1 and fc2; the study's grid changes rank, alpha and targets."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train
