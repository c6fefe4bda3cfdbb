"""Faster R-CNN: the model zoo's Mask R-CNN without masks, narrow and shallow."""

from detectron2.model_zoo import get_config

from .fcos import model as _fcos
from .scenes import dataloader, lr_multiplier, optimizer, train

model = get_config("common/models/mask_rcnn_fpn.py").model
[model.roi_heads.pop(x) for x in ["mask_in_features", "mask_pooler", "mask_head"]]
model.backbone.bottom_up.stem.out_channels = 8
model.backbone.bottom_up.stages = _fcos.backbone.bottom_up.stages
model.backbone.out_channels = 16
model.proposal_generator.head.in_channels = 16
model.roi_heads.num_classes = 6
model.roi_heads.box_head.input_shape.channels = 16
model.roi_heads.box_head.fc_dims = [32, 32]
model.roi_heads.box_predictor.input_shape.channels = 32
