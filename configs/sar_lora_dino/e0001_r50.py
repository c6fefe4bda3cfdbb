"""E0001: RetinaNet R50-FPN from torchvision's ImageNet weights, first stage and norms frozen; a smoke run."""

from detectron2.config import LazyCall as L

from loradet.adapters import freeze
from loradet.backbones import TimmBackbone

from ..common.optim import SGD as optimizer
from .base import data, dataloader, lr_multiplier, model, train

model.backbone.bottom_up = L(freeze)(
    # torchvision's first weights, as timm publishes them.
    module=L(TimmBackbone)(model_name="resnet50.tv_in1k", pretrained=True, out_features=["stage1", "stage2", "stage3"]),
    unfreeze=[r"re:.*layer[234].*\.(conv\d|downsample\.0)"],
)
model.test_score_thresh = 0.0
data.total_batch_size = 16
train.amp.enabled = False
train.output_dir = "work_dirs/E0001_full"
