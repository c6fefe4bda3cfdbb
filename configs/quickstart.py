"""LoRA on a frozen ConvNeXt, FPN, RetinaNet, on SAR-like synthetic scenes: `make demo` trains it.

Backbone, neck and head start from `pretrain_quickstart`, which has seen optical-like scenes only; the backbone stays
frozen, LoRA, neck and head train. Two minutes on two CPU cores; AP50 on the val split is about 0.55.
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
data.image_size = 192
data.max_size = 192
data.total_batch_size = 8
dataloader.train.num_workers = 1
optimizer.lr = 1e-3
lr_multiplier.iterations = 20
lr_multiplier.max_fraction = 1.0  # so many in a shorter run too
train.init_checkpoint = "asset://retinanet_slim_synthetic.safetensors"
train.output_dir = "work_dirs/quickstart"
train.max_iter = 400
train.eval_period = 200
train.checkpointer.period = 200
train.clip_grad.max_norm = 1.0
