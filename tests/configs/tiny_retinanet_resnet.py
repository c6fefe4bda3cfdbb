"""The common RetinaNet on a ResNet, small enough for tests; `data.root` and `train.output_dir` come as overrides."""

from ...configs.common.models.retinanet_resnet import model
from .tiny import data, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up.module.update(
    model_name="resnet26", pretrained=False, layers=[1, 1, 1, 1], channels=[8, 8, 8, 8], stem_width=8
)
model.backbone.top_block.in_channels = 32
model.backbone.out_channels = 16
model.head.conv_dims = [16]
train.max_iter = 2
train.eval_period = 2
