"""Your own Pascal VOC data (XML files), with the detector of `custom_coco`.

    loradet train --config-file configs/custom_voc.py data.root=PATH

expects PATH/Annotations, PATH/JPEGImages and PATH/ImageSets/Main/{train,val,test}.txt, or PATH/{train,valid,test} with
images and XML files side by side.
"""

from .common.voc import data, dataloader
from .custom_coco import lr_multiplier, model, optimizer, train

data.image_size = 320
data.max_size = 512
data.total_batch_size = 8
train.output_dir = "work_dirs/custom_voc"
