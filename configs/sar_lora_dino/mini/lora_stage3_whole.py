"""LoRA of rank 16 on fc1 and fc2; the whole of stage 3 trains too."""

from .lora_stage3 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.freeze_base = False
