"""Pascal VOC data: `data.root=PATH` has Annotations, JPEGImages and ImageSets/Main, or train, valid and test of both.

Classes are those of the training split, by name; `data.classes=[head]` takes some alone. What is
`difficult` is neither trained on nor to be found.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from loradet.datasets import count_voc_classes, voc_dataset

from .data import SHARED, dataloader

data = OmegaConf.create(
    dict(
        name="voc",
        root="???",
        classes=None,
        num_classes=L(count_voc_classes)(root="${data.root}", classes="${data.classes}"),
        **SHARED,
    ),
    flags={"allow_objects": True},
)

num_classes = "${data.num_classes}"  # for configs that say `model.num_classes = num_classes`


def _dataset(split: str, **kwargs):
    return L(voc_dataset)(
        name="${data.name}_" + split, root="${data.root}", split=split, classes="${data.classes}", **kwargs
    )


dataloader.train.dataset = _dataset("train", filter_empty=True)
dataloader.val.dataset = _dataset("val")
dataloader.test.dataset = _dataset("test")
