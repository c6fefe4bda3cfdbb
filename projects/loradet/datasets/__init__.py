"""Readers, checks and generators of detection data."""

from typing import TYPE_CHECKING

from loradet.lazy import lazy_names

if TYPE_CHECKING:
    from loradet.datasets import synthetic
    from loradet.datasets.checks import check, check_splits, fix
    from loradet.datasets.readers.coco import coco_dataset, register_coco
    from loradet.datasets.readers.voc import count_voc_classes, voc_class_names, voc_dataset, voc_to_coco
    from loradet.datasets.readers.yolo import yolo_dataset, yolo_to_coco
    from loradet.datasets.readers.yolo_description import count_yolo_classes, yolo_class_names
    from loradet.datasets.splitting import split_coco
    from loradet.datasets.subset import make_subset
    from loradet.datasets.summary import summarize
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "check",
    "check_splits",
    "coco_dataset",
    "count_voc_classes",
    "count_yolo_classes",
    "fix",
    "make_subset",
    "register_coco",
    "split_coco",
    "summarize",
    "synthetic",
    "voc_class_names",
    "voc_dataset",
    "voc_to_coco",
    "yolo_class_names",
    "yolo_dataset",
    "yolo_to_coco",
]
