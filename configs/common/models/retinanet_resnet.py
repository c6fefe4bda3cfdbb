"""RetinaNet on ResNet-50 from torchvision's ImageNet weights: stem, first stage and norms are frozen, as usual.

All but the neck and head frozen is `model.backbone.bottom_up.unfreeze = []`.
"""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze
from loradet.backbones import TimmBackbone

from .retinanet_timm import model

model.backbone.bottom_up = L(freeze)(
    module=L(TimmBackbone)(model_name="resnet50.tv_in1k", pretrained=True, out_features=["stage1", "stage2", "stage3"]),
    unfreeze=[r"re:.*layer[234].*\.(conv\d|downsample\.0)"],
)
