"""LoRA on a frozen ConvNeXt, FPN, RetinaNet, on SAR-like synthetic scenes: `make demo` runs it.

Minutes on two CPU cores; AP50 on the val split is about 0.6.
"""

from .common.backbones import atto_lora, slim
from .common.models.retinanet_timm import model
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.synthetic import data, dataloader
from .common.train import train

slim(model)
model.backbone.bottom_up = atto_lora
data.name = "quickstart"
data.root = "datasets/synthetic_sar"
dataloader.train.total_batch_size = 8
optimizer.lr = 2e-3
lr_multiplier.iterations = 20
train.output_dir = "work_dirs/quickstart"
train.max_iter = 250
train.eval_period = 125
train.checkpointer.period = 125
train.log_period = 10
train.clip_grad.max_norm = 1.0
