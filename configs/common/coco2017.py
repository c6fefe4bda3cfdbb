"""COCO 2017 as `loradet data coco2017` lays it out, in $DETECTRON2_DATASETS/coco or datasets/coco."""

from .data import data, dataloader

data.name = "coco2017"
data.root = "${oc.env:DETECTRON2_DATASETS,datasets}/coco"
for split in ("train", "val"):
    data[f"{split}_json"] = "${data.root}/annotations/instances_" + f"{split}2017.json"
    data[f"{split}_images"] = "${data.root}/" + f"{split}2017"
del data.test_json, data.test_images, dataloader.test
dataloader.evaluator.dataset_name = "${dataloader.val.dataset.name}"
