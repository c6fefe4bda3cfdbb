"""Your own YOLO data: a D-FINE of transformers, LoRA on a frozen backbone, encoder and decoder trained.

    pip install 'loradet[transformers]'
    loradet train --config-file configs/custom_dfine.py data.data_yaml=PATH/data.yaml

The backbone is the small one that ships with the project, and the decoder is half as wide as that of D-FINE small, so
that it trains on a CPU; without `slim(model)` it is D-FINE small's. docs/library_detectors.md says how to put another
backbone in, and how published weights start it. For COCO files take `data` and `dataloader` from common.data.
"""

from .common.backbones import atto_lora
from .common.models.dfine import model, slim
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.train import train
from .common.yolo import data, dataloader

slim(model)
model.backbone = atto_lora
data.image_size = 480
data.max_size = 800
data.total_batch_size = 8
optimizer.lr = 4e-4
optimizer.weight_decay = 1e-4
train.output_dir = "work_dirs/custom_dfine"
train.max_iter = "50 epochs"
train.eval_period = "5 epochs, at least 20, at most 10000 iterations"
train.checkpointer.period = "5 epochs, at least 20, at most 5000 iterations"
train.max_batch_per_gpu = 4
train.clip_grad.max_norm = 0.1
