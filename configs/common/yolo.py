"""YOLO data: `data.data_yaml` (the file, or its folder) says where images and labels are and which classes there are.

Every detector refers to `data.num_classes`, which is counted there too. `dataloader.test` needs a `test` in the
description, but only where `train.eval_splits` asks for it.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from loradet.datasets import count_yolo_classes, yolo_dataset

from .data import SHARED, dataloader

data = OmegaConf.create(
    dict(
        name="yolo",
        data_yaml="???",
        classes=None,  # names in the wanted order; None: all of the description, in its order
        num_classes=L(count_yolo_classes)(data_yaml="${data.data_yaml}", classes="${data.classes}"),
        polygons=False,  # let labels be polygons too, of which the boxes are taken
        clip=False,  # clip boxes that leave the image by more than 1 % of its side, else an error
        max_images=dict(train=None, val=None, test=None),  # so many only, for a quick try; None: all
        **SHARED,
    ),
    flags={"allow_objects": True},
)

num_classes = "${data.num_classes}"  # for configs that say `model.num_classes = num_classes`


def _dataset(split: str, **kwargs):
    return L(yolo_dataset)(
        name="${data.name}_" + split,
        data_yaml="${data.data_yaml}",
        split=split,
        classes="${data.classes}",
        # `data` may be another layout's, with data.data_yaml set: these are not in it.
        max_images="${oc.select:data.max_images." + split + ",null}",
        polygons="${oc.select:data.polygons,false}",
        clip="${oc.select:data.clip,false}",
        **kwargs,
    )


dataloader.train.dataset = _dataset("train", filter_empty=True)
dataloader.val.dataset = _dataset("val")
dataloader.test.dataset = _dataset("test")
