"""The quickstart without LoRA: the backbone stays frozen as it is, neck and head train."""

from .common.backbones import atto_frozen
from .quickstart import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = atto_frozen
train.output_dir = "work_dirs/quickstart_linear_probe"
