"""A small DETR on a frozen backbone learns coloured shapes: the smallest run in which a DETR learns on a CPU.

    loradet data synthetic datasets/synthetic_shapes --style shapes --size 128 --max-objects 3 \
        --train 16000 --val 200
    loradet train --config-file configs/detr_shapes.py

44 minutes of one CPU thread; AP50 on the val split is about 0.56.
"""

from .common.backbones import atto_frozen
from .common.coco2017 import data, dataloader
from .common.models.detr import model
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.train import train

model.backbone = atto_frozen
model.backbone.module.out_features = ["stage2"]
model.position_embedding.num_pos_feats = 64
model.position_embedding.temperature = 20.0
model.position_embedding.scale = 25.0  # four turns over the image: its 8x8 cells are told apart sooner
model.transformer.hidden_dim = 128
model.transformer.num_encoder_layers = 2
model.transformer.num_decoder_layers = 2
model.transformer.dim_feedforward = 256
model.transformer.dropout = 0.0
model.num_queries = 20
data.name = "synthetic_shapes"
data.root = "datasets/synthetic_shapes"
data.image_size = data.max_size = 128
data.total_batch_size = 16
optimizer.lr = 5e-4
optimizer.weight_decay = 1e-4
train.output_dir = "work_dirs/detr_shapes"
train.max_iter = "15 epochs"
train.eval_period = "3 epochs"
train.checkpointer.period = "3 epochs"
train.clip_grad.max_norm = 0.1
