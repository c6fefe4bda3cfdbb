"""E1017: E0017 with the whole of stage 3 training, its wrapped layers too."""

from .e0017_lora_r4_fc2_stage3 import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.freeze_base = False
train.output_dir = "work_dirs/E1017_full"
