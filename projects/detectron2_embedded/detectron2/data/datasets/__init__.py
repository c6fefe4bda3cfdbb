"""Data sets in COCO's format; COCO itself is registered on import."""

from detectron2._subset import missing_names
from detectron2.data.datasets import builtin as _builtin  # noqa: F401  registers COCO
from detectron2.data.datasets.coco import (
    convert_to_coco_dict,
    convert_to_coco_json,
    load_coco_json,
    register_coco_instances,
)

__all__ = ["convert_to_coco_dict", "convert_to_coco_json", "load_coco_json", "register_coco_instances"]

__getattr__ = missing_names(
    __name__,
    [
        # Other data sets
        "cityscapes",
        "cityscapes_panoptic",
        "coco_panoptic",
        "get_lvis_instances_meta",
        "load_lvis_json",
        "load_voc_instances",
        "lvis",
        "lvis_v0_5_categories",
        "lvis_v1_categories",
        "lvis_v1_category_image_count",
        "pascal_voc",
        "register_lvis_instances",
        "register_pascal_voc",
        # Segmentation
        "load_sem_seg",
        "register_coco_panoptic",
        "register_coco_panoptic_separated",
    ],
)
