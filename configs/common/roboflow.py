"""A COCO export of Roboflow: `data.root=PATH` has {train,valid,test}/_annotations.coco.json, with the images beside it.

The export's empty heading (category 0) is no class. `data.classes=[head]` takes some classes alone, by name.
"""

from .data import data, dataloader

data.name = "roboflow"
for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
    data[f"{split}_json"] = "${data.root}/" + f"{folder}/_annotations.coco.json"
    data[f"{split}_images"] = "${data.root}/" + folder
