"""DETR-R50, all of it trained."""

from .budget import data, dataloader, init, lr_multiplier, optimizer, train
from .regimes import full as model

train.output_dir = "work_dirs/detr_r50_full"
