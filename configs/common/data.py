"""COCO-style data: `data` says where it lies, which classes it has, how many, and how large images and batches are.

`dataloader` has none of these values itself: it can be exchanged for that of `common.roboflow`, `common.yolo` or
`common.voc` while `data` stays.
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from omegaconf import OmegaConf

from loradet.datasets import coco_dataset
from loradet.datasets.classes import count_classes
from loradet.datasets.loader import build_train_loader
from loradet.datasets.mapper import DetectionMapper
from loradet.evaluation import BoxEvaluator

from .augment import basic

SHARED = dict(
    image_size=640,  # pixels of the shorter edge
    max_size=1024,  # pixels of the longer edge
    intensity="auto",  # how values of more than 8 bits become 0..255: full_range, [low, high], "percentile:1,99"
    augment=None,  # a preset of common/augment.py, as multi_scale, lsj, photometric, mosaic; None: the mapper's list
    total_batch_size=16,  # images of an optimizer step, over all processes
    cache=None,  # "memory": training images are decoded and resized once, for small sets
    cache_gb=4.0,  # the most that these may take, in each training process
    reduced_decode=False,  # decode JPEG of twice the size and more at a half, a quarter, an eighth of it, in training
)

data = OmegaConf.create(
    dict(
        name="custom",
        root="???",
        classes=None,  # names in the wanted order; None: all categories of the training file, by id
        # What every detector refers to.
        num_classes=L(count_classes)(json_file="${data.train_json}", classes="${data.classes}"),
        train_json="${data.root}/annotations/train.json",
        train_images="${data.root}/images/train",
        val_json="${data.root}/annotations/val.json",
        val_images="${data.root}/images/val",
        test_json="${data.root}/annotations/test.json",
        test_images="${data.root}/images/test",
        **SHARED,
    ),
    flags={"allow_objects": True},
)

# A `data` of another config may not have it.
_intensity = "${oc.select:data.intensity,auto}"
_test_mapper = L(DetectionMapper)(
    is_train=False,
    augmentations=[L(T.ResizeShortestEdge)(short_edge_length="${data.image_size}", max_size="${data.max_size}")],
    image_format="${model.input_format}",
    intensity=_intensity,
)


def _dataset(split: str, **kwargs):
    return L(coco_dataset)(
        name="${data.name}_" + split,
        json_file="${data." + split + "_json}",
        image_root="${data." + split + "_images}",
        classes="${data.classes}",
        classes_from="${data.train_json}",
        **kwargs,
    )


dataloader = OmegaConf.create(
    dict(
        train=L(build_train_loader)(
            dataset=_dataset("train", filter_empty=True),
            mapper=L(DetectionMapper)(
                is_train=True,
                augmentations=basic,
                image_format="${model.input_format}",
                intensity=_intensity,
                reduced_decode="${oc.select:data.reduced_decode,false}",
            ),
            total_batch_size="${data.total_batch_size}",
            num_workers=2,
            seed="${train.seed}",
            cache="${oc.select:data.cache,null}",
            cache_gb="${oc.select:data.cache_gb,4.0}",
        ),
        val=L(build_detection_test_loader)(dataset=_dataset("val"), mapper=_test_mapper, num_workers=2),
        test=L(build_detection_test_loader)(dataset=_dataset("test"), mapper=_test_mapper, num_workers=2),
        # Our tools put every split that they evaluate in the place of "test".
        evaluator=L(BoxEvaluator)(dataset_name="${dataloader.test.dataset.name}"),
    ),
    flags={"allow_objects": True},
)
