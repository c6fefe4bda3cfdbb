"""Your own export of Roboflow in COCO's format, with the detector of `custom_coco`.

    loradet train --config-file configs/custom_roboflow.py data.root=PATH

expects PATH/{train,valid,test}/_annotations.coco.json with the images beside it. Its empty heading is no class.
"""

from .common.roboflow import data, dataloader
from .custom_coco import lr_multiplier, model, optimizer, train

data.image_size = 320
data.max_size = 512
data.total_batch_size = 8
train.output_dir = "work_dirs/custom_roboflow"
