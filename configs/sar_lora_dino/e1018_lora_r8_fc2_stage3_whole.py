"""E1018: E0018 with the whole of stage 3 training, its wrapped layers too."""

from .e0018_lora_r8_fc2_stage3 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.freeze_base = False
train.output_dir = "work_dirs/E1018_full"
