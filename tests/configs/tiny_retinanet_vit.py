"""The common RetinaNet on a ViT, small enough for tests; `data.root` and `train.output_dir` come as overrides."""

from ...configs.common.models.retinanet_vit import model
from .tiny import data, dataloader, lr_multiplier, optimizer, train

model.backbone.net.update(
    model_name="vit_tiny_patch16_224", pretrained=False, embed_dim=32, depth=2, num_heads=2, img_size=64
)
model.backbone.in_feature = "block1"
model.backbone.out_channels = 16
model.pixel_mean = model.pixel_std = [127.5, 127.5, 127.5]  # as this ViT has them
model.head.conv_dims = [16]
train.max_iter = 2
train.eval_period = 2
