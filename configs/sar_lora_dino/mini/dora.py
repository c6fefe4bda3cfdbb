"""DoRA of rank 16 on fc1 and fc2 of the frozen backbone."""

from .base import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(variant="dora", rank=16, alpha=32.0, targets=["mlp.fc1", "mlp.fc2"])
