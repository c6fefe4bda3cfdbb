"""The project's own synthetic scenes, as `tools/datasets.py synthetic` writes them (layout of SARDet-100K)."""

from .data import data, dataloader

data.classes = ["ship", "aircraft", "car", "tank", "bridge", "harbor"]
for split in ("train", "val", "test"):
    data[f"{split}_json"] = "${data.root}/Annotations/" + f"{split}.json"
    data[f"{split}_images"] = "${data.root}/JPEGImages/" + split
data.image_size = 256
data.max_size = 256
