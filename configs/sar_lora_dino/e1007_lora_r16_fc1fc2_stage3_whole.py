"""E1007: E0007 with the whole of stage 3 training, its wrapped layers too."""

from .e0007_lora_r16_fc1fc2_stage3 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.freeze_base = False
train.output_dir = "work_dirs/E1007_full"
