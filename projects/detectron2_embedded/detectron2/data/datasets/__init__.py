"""Data sets in COCO's format; COCO itself is registered on import."""

from detectron2.data.datasets import builtin as _builtin  # noqa: F401  registers COCO
from detectron2.data.datasets.coco import (
    convert_to_coco_dict,
    convert_to_coco_json,
    load_coco_json,
    register_coco_instances,
)

__all__ = ["convert_to_coco_dict", "convert_to_coco_json", "load_coco_json", "register_coco_instances"]
