"""SARDet-100K, as its authors lay it out: $SARDET100K_ROOT, or datasets/sardet100k."""

from .data import data, dataloader

data.name = "sardet100k"
data.root = "${oc.env:SARDET100K_ROOT,datasets/sardet100k}"
data.classes = ["ship", "aircraft", "car", "tank", "bridge", "harbor"]
for split in ("train", "val", "test"):
    data[f"{split}_json"] = "${data.root}/Annotations/" + f"{split}.json"
    data[f"{split}_images"] = "${data.root}/JPEGImages/" + split
