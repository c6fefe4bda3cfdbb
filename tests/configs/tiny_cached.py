"""The tiny detector as a linear probe on squares, whose features can be kept."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .tiny import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = model.backbone.bottom_up.module
_square = L(T.Resize)(shape=[64, 64])
dataloader.train.mapper.augmentations = [_square, L(T.RandomFlip)(horizontal=True)]
dataloader.val.mapper.augmentations = dataloader.test.mapper.augmentations = [_square]
train.feature_cache = dict(enabled=True)
