"""DETR-R50, the last stage of its backbone and its heads trained."""

from .budget import data, dataloader, init, lr_multiplier, optimizer, train
from .regimes import partial as model

train.output_dir = "work_dirs/detr_r50_partial_unfreeze"
