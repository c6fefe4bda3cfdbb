"""What all experiments of the study share, and its baseline: frozen ViM-Tiny, P2 to P6, a cascade of three box heads.

640x640, AdamW at 1e-3, batches of 8, 100 epochs; the rate falls to a tenth after 70 % and again after 90 %. At most two
images go through the model at a time, which fits 8 GB; larger batches accumulate. Experiments differ in one factor.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from loradet.adapters import freeze
from loradet.backbones import VisionMamba

from ..common.models.cascade_rcnn_sfp import model
from ..common.optim import AdamW as optimizer
from ..common.roboflow import data, dataloader
from ..common.schedule import multistep_70_90 as lr_multiplier
from ..common.train import train

data.name = "heads"
data.root = "${oc.env:DETECTRON2_DATASETS,datasets}/heads"
data.classes = ["head"]
data.image_size = 640
_resize = L(T.Resize)(shape=["${data.image_size}", "${data.image_size}"])
dataloader.train.mapper.augmentations = [_resize, L(T.RandomFlip)(horizontal=True)]
dataloader.val.mapper.augmentations = dataloader.test.mapper.augmentations = [_resize]
dataloader.train.dataset.filter_empty = False  # epochs count every image, as the study's iterations do
data.total_batch_size = 8
dataloader.train.num_workers = 4

model.backbone.net = L(freeze)(
    module=L(VisionMamba)(
        weights="ckpts/vim_tiny_pretrained.pth",
        random_weights=False,
        img_size="${data.image_size}",
        embed_dim=192,
        depth=24,
    ),
    unfreeze=[],
)
model.backbone.in_feature = "last_feat"

optimizer.lr = 1e-3
optimizer.weight_decay = 0.1

lr_multiplier.max_fraction = 1.0  # the study's own warm-up, as published
train.max_iter = "100 epochs"
train.max_batch_per_gpu = 2
train.eval_splits = ["val", "test"]
train.best.metric = "bbox/AP50"
