"""Pretrains, by detection on optical-like synthetic scenes, the small detector whose backbone the quickstart adapts.

    loradet data synthetic datasets/synthetic_optical --style optical --train 8000 --val 200 --seed 1
    loradet train --config-file configs/pretrain_quickstart.py
    loradet weights export work_dirs/pretrain_quickstart/model_best.pth convnext_atto_synthetic.safetensors
    loradet weights export work_dirs/pretrain_quickstart/model_best.pth retinanet_slim_synthetic.safetensors \\
        --rest

About half an hour on two CPU cores; AP50 on the optical-like val split is 0.638.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .common.backbones import atto, slim
from .common.models.retinanet_timm import model
from .common.optim import AdamW as optimizer
from .common.schedule import cosine as lr_multiplier
from .common.synthetic import data, dataloader
from .common.train import train

slim(model)
model.backbone.bottom_up = atto
model.backbone.bottom_up.weights = None
data.name = "pretrain_quickstart"
data.root = "datasets/synthetic_optical"
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=0.75, max_scale=1.4, target_height=256, target_width=256),
    L(T.FixedSizeCrop)(crop_size=[192, 192]),
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomFlip)(horizontal=False, vertical=True),
    L(T.RandomBrightness)(intensity_min=0.6, intensity_max=1.4),
    L(T.RandomContrast)(intensity_min=0.6, intensity_max=1.4),
    L(T.RandomSaturation)(intensity_min=0.0, intensity_max=1.4),
]
data.total_batch_size = 16
optimizer.lr = 1.5e-3
train.output_dir = "work_dirs/pretrain_quickstart"
train.max_iter = 2400
train.eval_period = 600
train.checkpointer.period = 300
train.clip_grad.max_norm = 1.0
