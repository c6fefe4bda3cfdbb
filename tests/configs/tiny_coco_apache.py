"""`custom_coco_apache.py`, small enough for tests; weights are a file that the test makes."""

from ...configs.custom_coco_apache import model
from .tiny import data, dataloader, lr_multiplier, optimizer, train

model.backbone.net.module.module.update(pretrained=False, embed_dim=32, depth=2, num_heads=2, img_size=592)
model.backbone.in_feature = "block1"
model.backbone.out_channels = 16
model.head.conv_dims = [16]
train.max_iter = 1
train.eval_period = 0
