"""DETR on a frozen DINOv3 ViT-L/16 for crowds: 300 queries, images of 960x1536, 10 epochs of 8 images, bf16.

Data: $CROWD_ROOT/data.yaml (YOLO, classes person and head), or `data.data_yaml=PATH`. A smaller backbone is
`model.backbone.module.model_name=vit_base_patch16_dinov3.lvd1689m` (or vit_small_…). Weights come from the hub, under
DINOv3's licence. The plan is for a GPU of 20 GB: 2 images at a time.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import LinearParamScheduler

from loradet.adapters import freeze
from loradet.backbones import TimmViT
from loradet.datasets.affine import RandomAffine

from ..common.models.detr import model
from ..common.optim import AdamW as optimizer
from ..common.train import train
from ..common.yolo import data, dataloader

data.name = "crowd"
data.data_yaml = "${oc.env:CROWD_ROOT,datasets/crowd_human}/data.yaml"
data.image_size = 960
data.max_size = 1536
data.pad_to = [960, 1536]

model.backbone = L(freeze)(
    module=L(TimmViT)(model_name="vit_large_patch16_dinov3.lvd1689m", pretrained=True, frozen_dtype="auto"),
    unfreeze=[],
)
model.num_queries = 300
model.pad_to = "${data.pad_to}"

dataloader.train.mapper.augmentations += [
    L(RandomAffine)(
        rotate=5.0,
        shear=3.0,
        translate=0.03,
        scale=(0.9, 1.1),
        prob=0.4,
        fill=[124.0, 116.0, 104.0],
        min_visible=0.1,
    ),
    L(T.RandomBrightness)(intensity_min=0.9, intensity_max=1.1),
    L(T.RandomContrast)(intensity_min=0.9, intensity_max=1.1),
]
dataloader.train.dataset.filter_empty = False
data.total_batch_size = 8
dataloader.train.num_workers = 8
dataloader.val.batch_size = dataloader.test.batch_size = 2
dataloader.val.num_workers = dataloader.test.num_workers = 8

optimizer.params.weight_decay_norm = None
optimizer.weight_decay = 1e-4
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(LinearParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.001,
    warmup_length=0.05,
    warmup_method="linear",
)
train.output_dir = "work_dirs/crowd_detr_full"
train.max_iter = "10 epochs"
train.max_batch_per_gpu = 2
train.amp.enabled = True
train.amp.dtype = "auto"
train.clip_grad.max_norm = 0.1
train.checkpointer.max_to_keep = 8
train.efficiency.enabled = True
