"""FCOS of the model zoo, narrow and shallow, with AdamW."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock

from .scenes import dataloader, lr_multiplier, train

model = get_config("common/models/fcos.py").model
model.num_classes = 6
model.backbone.bottom_up.stem.out_channels = 8
model.backbone.bottom_up.stages = [
    L(ResNet.make_stage)(
        block_class=BasicBlock, num_blocks=1, in_channels=i, out_channels=o, stride=o // i, norm="FrozenBN"
    )
    for i, o in ((8, 8), (8, 16), (16, 32), (32, 64))
]
model.backbone.out_channels = 32
model.backbone.top_block.in_channels = 32
model.head.input_shape = [ShapeSpec(channels=32)] * 5
model.head.conv_dims = [64]  # two channels a group: one pixel of P7 alone has no deviation

optimizer = get_config("common/optim.py").AdamW
