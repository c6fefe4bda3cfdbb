"""Presets of augmentation: `data.augment=lsj`, or in a file `dataloader.train.mapper.augmentations = lsj`.

Each is a list of calls, in pixels of `data.image_size` and `data.max_size`. docs/augmentation.md shows them.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from loradet.datasets.augment import Mosaic, RandomColor, short_edges


def _preset(*calls):
    return OmegaConf.create(list(calls), flags={"allow_objects": True})


_resize = L(T.ResizeShortestEdge)(short_edge_length="${data.image_size}", max_size="${data.max_size}")
_flip = L(T.RandomFlip)(horizontal=True)

# What the data configs do when nothing is said.
basic = _preset(_resize, _flip)

# The shorter edge is drawn from lengths around the one of evaluation: of 800 they are 640, 672, ..., 960.
# DETR's factors are 0.6 to 1.0, for long runs: a short one is then best at 0.8 of the size that it is evaluated at.
multi_scale = _preset(
    L(T.ResizeShortestEdge)(
        short_edge_length=L(short_edges)(
            length="${data.image_size}", factors=[0.8, 0.84, 0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12, 1.16, 1.2]
        ),
        max_size="${data.max_size}",
        sample_style="choice",
    ),
    _flip,
)

# Large-scale jitter as ViTDet has it: a tenth to twice of what fits into a square of `max_size`, which is cut out or
# filled up. All images have one size.
lsj = _preset(
    L(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height="${data.max_size}", target_width="${data.max_size}"),
    L(T.FixedSizeCrop)(crop_size=["${data.max_size}", "${data.max_size}"]),
    _flip,
)

# Brightness and contrast, and of coloured images saturation and hue. A flipped image would be copied for it first.
photometric = _preset(
    _resize,
    L(RandomColor)(
        brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02, prob=0.5, image_format="${model.input_format}"
    ),
    _flip,
)

# Every second image becomes one of four.
mosaic = _preset(
    L(Mosaic)(image_size="${data.image_size}", max_size="${data.max_size}", prob=0.5, scale=[0.5, 1.0]),
    _resize,
    _flip,
)
