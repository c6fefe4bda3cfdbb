"""Faster R-CNN R50-FPN, all of it trained."""

from ..fasterrcnn_r50_fpn_baseline import model
from .budget import data, dataloader, init, lr_multiplier, optimizer, train

train.output_dir = "work_dirs/synthetic_fasterrcnn_r50_fpn_baseline"
