"""The tiny DETR on YOLO data, augmented; `data.data_yaml` and `train.output_dir` come as overrides."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from loradet.datasets.affine import RandomAffine

from ...configs.common.yolo import data, dataloader, num_classes
from .tiny_detr import lr_multiplier, model, optimizer, train

model.num_classes = num_classes
model.pad_to = [48, 64]
data.image_size = 48
data.max_size = 64
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 1
dataloader.val.num_workers = 0
dataloader.train.mapper.augmentations += [
    L(RandomAffine)(rotate=5.0, shear=3.0, translate=0.03, scale=[0.9, 1.1], prob=0.4, fill=[124, 116, 104]),
    L(T.RandomBrightness)(intensity_min=0.9, intensity_max=1.1),
    L(T.RandomContrast)(intensity_min=0.9, intensity_max=1.1),
]
train.max_iter = 2
train.eval_period = 2
