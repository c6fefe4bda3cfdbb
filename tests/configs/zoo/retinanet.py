"""RetinaNet of the model zoo on a ResNet-18, from scratch."""

from detectron2.model_zoo import get_config

from .scenes import dataloader, lr_multiplier, optimizer, train

model = get_config("common/models/retinanet.py").model
model.num_classes = 6
model.backbone.bottom_up.stages.depth = 18
model.backbone.bottom_up.stages.pop("stride_in_1x1")
model.backbone.out_channels = 16
model.backbone.top_block.in_channels = 512
for _shape in model.head.input_shape:
    _shape.channels = 16
model.head.conv_dims = [16]
