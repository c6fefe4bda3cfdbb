"""DETR-R50, all of it trained."""

from ..regimes import full as model
from .budget import data, dataloader, init, lr_multiplier, optimizer, train

train.output_dir = "work_dirs/synthetic_detr_r50_full"
