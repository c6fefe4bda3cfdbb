"""E0025: the whole detector is trained from random weights."""

from .e0019_full import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.pretrained = False
train.allow_random_frozen = True
train.output_dir = "work_dirs/E0025_full"
