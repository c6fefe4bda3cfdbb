"""COCO under its usual names, expected in `$DETECTRON2_DATASETS/coco` (default: `datasets/coco`)."""

import os

from detectron2._subset import missing_names
from detectron2.data.datasets.builtin_meta import coco_metadata
from detectron2.data.datasets.coco import register_coco_instances

# name: (image folder, annotation file), both below coco/
_COCO_SPLITS = {
    "coco_2014_train": ("train2014", "instances_train2014"),
    "coco_2014_val": ("val2014", "instances_val2014"),
    "coco_2014_minival": ("val2014", "instances_minival2014"),
    "coco_2014_valminusminival": ("val2014", "instances_valminusminival2014"),
    "coco_2017_train": ("train2017", "instances_train2017"),
    "coco_2017_val": ("val2017", "instances_val2017"),
    "coco_2017_test": ("test2017", "image_info_test2017"),
    "coco_2017_test-dev": ("test2017", "image_info_test-dev2017"),
    "coco_2017_val_100": ("val2017", "instances_val2017_100"),
}


def register_all_coco(root: str) -> None:
    """Register COCO's splits; `root` holds the folder coco/. Files are looked for on first use."""
    for name, (images, annotations) in _COCO_SPLITS.items():
        json_file = f"{root}/coco/annotations/{annotations}.json"
        register_coco_instances(name, coco_metadata(), json_file, f"{root}/coco/{images}")


register_all_coco(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))  # noqa: PTH111


__getattr__ = missing_names(
    __name__,
    [
        "register_all_ade20k",
        "register_all_cityscapes",
        "register_all_cityscapes_panoptic",
        "register_all_lvis",
        "register_all_pascal_voc",
    ],
)
