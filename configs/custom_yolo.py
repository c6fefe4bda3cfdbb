"""Your own YOLO data, with the detector of `custom_coco`.

    loradet train --config-file configs/custom_yolo.py data.data_yaml=PATH/data.yaml

The description says where images are and which classes there are; `data.polygons=true` takes polygons for their boxes.
"""

from .common.yolo import data, dataloader
from .custom_coco import lr_multiplier, model, optimizer, train

data.image_size = 320
data.max_size = 512
data.total_batch_size = 8
train.output_dir = "work_dirs/custom_yolo"
