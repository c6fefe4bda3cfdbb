"""A Cascade R-CNN small enough for tests; `data.root` and `train.output_dir` come as overrides."""

from ...configs.common.models.cascade_rcnn import model
from .tiny import data, dataloader, lr_multiplier, optimizer, train
from .tiny import model as _retinanet

model.backbone.bottom_up = _retinanet.backbone.bottom_up
model.backbone.bottom_up.module.module.out_features = ["stage0", "stage1", "stage2", "stage3"]
model.backbone.out_channels = 8
model.proposal_generator.pre_nms_topk = model.proposal_generator.post_nms_topk = [60, 40]
model.roi_heads.batch_size_per_image = 24
for _head, _predictor in zip(model.roi_heads.box_heads, model.roi_heads.box_predictors):
    _head.fc_dims = [16]
    _predictor.input_shape.channels = 16
    _predictor.test_score_thresh = 0.0
