"""Squares of 256 pixels without affine and colour: DINOv3's maps are kept, and computed once (docs/feature_cache.md).

An image has two views, of 1 MB each in float32 and half of it in bf16.
"""

from .full import data, dataloader, lr_multiplier, model, optimizer, train

data.image_size = data.max_size = 256
data.pad_to = [256, 256]
dataloader.train.mapper.augmentations = dataloader.train.mapper.augmentations[:2]  # resize and flip
train.feature_cache = dict(enabled=True)
train.output_dir = "work_dirs/crowd_detr_cached"
