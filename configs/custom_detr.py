"""Your own YOLO data: a DETR on a frozen backbone.

    loradet train --config-file configs/custom_detr.py data.data_yaml=PATH/data.yaml

The backbone is the small one that ships with the project, frozen; docs/detr.md says how to put another in. For COCO
files take `data` and `dataloader` from common.data. A DETR learns slowly: the published ones saw COCO 150 to 500 times.
"""

from .common.backbones import atto_frozen
from .common.models.detr import model
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.train import train
from .common.yolo import data, dataloader

model.backbone = atto_frozen
model.backbone.module.out_features = ["stage3"]
data.image_size = 480
data.max_size = 800
data.total_batch_size = 8
optimizer.lr = 1e-4
optimizer.weight_decay = 1e-4
train.output_dir = "work_dirs/custom_detr"
train.max_iter = "100 epochs"
train.eval_period = "10 epochs, at least 20, at most 10000 iterations"
train.checkpointer.period = "10 epochs, at least 20, at most 5000 iterations"
train.max_batch_per_gpu = 4
train.clip_grad.max_norm = 0.1
