"""Faster R-CNN R50-FPN, all of it trained: the usual detector of the same size."""

from detectron2.config import LazyCall as L

from loradet.backbones.batch_norm import batch_norm_for

from ..common.models.faster_rcnn_fpn import model
from .budget import data, dataloader, init, lr_multiplier, optimizer, train

model.backbone.bottom_up = model.backbone.bottom_up.module
model.backbone.bottom_up.weights = "${init.resnet50}"
model.backbone.bottom_up.net.stem.norm = L(batch_norm_for)(
    weights="${init.resnet50}", checkpoint="${train.init_checkpoint}"
)
train.output_dir = "work_dirs/fasterrcnn_r50_fpn_baseline"
