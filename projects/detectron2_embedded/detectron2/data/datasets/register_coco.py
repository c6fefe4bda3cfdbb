"""Import path of `register_coco_instances` beside `datasets.coco`."""

from detectron2.data.datasets.coco import register_coco_instances

__all__ = ["register_coco_instances"]
