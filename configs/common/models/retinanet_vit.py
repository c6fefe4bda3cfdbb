"""RetinaNet on a plain ViT with one map of stride 16: P3 to P5 by a simple feature pyramid (scales 2, 1 and 1/2).

The backbone here is DINOv3 ViT-Base, all of it trainable; `L(freeze)(module=model.backbone.net, unfreeze=[])` freezes
it. Another one is `model.backbone.net.model_name`, and `model.backbone.in_feature` the name of its last block.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelP6P7

from loradet.backbones import TimmViT

from .retinanet_timm import model

model.backbone = L(SimpleFeaturePyramid)(
    net=L(TimmViT)(model_name="vit_base_patch16_dinov3.lvd1689m", pretrained=True),
    in_feature="block11",
    out_channels=256,
    scale_factors=[2.0, 1.0, 0.5],
    top_block=L(LastLevelP6P7)(in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"),
    norm="LN",
    square_pad=0,  # batches are padded to their largest image
)
